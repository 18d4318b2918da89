"""Where layers take our kernels rather than plain torch; and whole blocks that take them, in Triton's interpreter."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.kernels.operators import takes_kernels
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
def test_blocks_that_take_kernels_train_as_those_of_plain_torch(tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.interpreted_blocks", "blocks", caches=tmp_path)


def test_a_gpu_takes_kernels_where_one_is_made_for_the_dtype() -> None:
    with FakeTensorMode():  # a GPU in name only
        wide, narrow, double = (torch.empty(2, device="cuda", dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64))
    assert takes_kernels(wide)
    assert takes_kernels(narrow, narrow)
    assert not takes_kernels(narrow, wide)
    assert not takes_kernels(double)
    assert not takes_kernels(torch.empty(2))


def test_what_is_compiled_is_left_to_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not takes_kernels(x)
