"""Triton's interpreter, which lets a machine without a GPU test the arithmetic of the kernels."""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (torch's CPU build has none)")


def run_interpreted(module: str, *arguments: str, caches: Path) -> None:
    """Runs it in a process of its own, since Triton decides at import whether it interprets. What it prints are failures."""
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "TRITON_CACHE_DIR": str(caches),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }

    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


def print_failures(checks: Mapping[str, Callable[[], Iterable[str]]]) -> None:
    """Prints what fails of the checks that the process's arguments name. What `torch.empty` gives is NaN."""
    assert os.environ["TRITON_INTERPRET"] == "1"
    warnings.simplefilter("ignore")  # NumPy's, of overflows in the interpreter
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in sys.argv[1:]:
        for failure in checks[name]():
            print(f"{name}: {failure}")
