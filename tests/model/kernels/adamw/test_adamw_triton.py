"""AdamW's Triton kernel in Triton's interpreter, to test its arithmetic without a GPU; and where it is taken."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.kernels.adamw.operator import takes_kernel
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("check", ["values", "withheld", "corrections", "optimizers"])
def test_it_does_what_torch_does(check: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.adamw.interpreted_adamw", check, caches=tmp_path)


def test_a_gpu_takes_it_where_everything_is_fp32_and_dense() -> None:
    with FakeTensorMode():  # a GPU in name only
        wide, narrow = torch.empty(2, 3, device="cuda"), torch.empty(2, 3, device="cuda", dtype=torch.bfloat16)
    assert takes_kernel(wide, wide)
    assert not takes_kernel(wide, narrow)
    assert not takes_kernel(wide, wide.T)
    assert not takes_kernel(torch.empty(2))
