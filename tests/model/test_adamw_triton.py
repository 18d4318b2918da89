"""AdamW's Triton kernel in Triton's interpreter, to test its arithmetic without a GPU; and where it is taken."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.adamw import takes_kernel

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (torch's CPU build has none)")
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("check", ["values", "corrections", "optimizers"])
def test_it_does_what_torch_does(check: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.model.interpreted_adamw", check]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


def test_a_gpu_takes_it_where_everything_is_fp32_and_dense() -> None:
    with FakeTensorMode():  # a GPU in name only
        wide, narrow = torch.empty(2, 3, device="cuda"), torch.empty(2, 3, device="cuda", dtype=torch.bfloat16)
    assert takes_kernel(wide, wide)
    assert not takes_kernel(wide, narrow)
    assert not takes_kernel(wide, wide.T)
    assert not takes_kernel(torch.empty(2))
