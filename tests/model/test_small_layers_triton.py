"""The small layers' Triton kernels in Triton's interpreter, to test their arithmetic without a GPU; and where they are taken."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.kernels.norm import operator as norm_operator
from model.kernels.operators import takes_kernels
from model.kernels.rotary import operator as rotary_operator
from model.kernels.swiglu import operator as swiglu_operator
from tests.model.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("check", ["norms", "gated", "rotation", "views", "blocks"])
def test_values_and_gradients_are_those_of_the_definition(check: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.interpreted_small_layers", check, caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        x, y = (torch.empty(2, 5, 96, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        weight_D, heads_BTNK = torch.empty(96, requires_grad=True), torch.empty(2, 5, 3, 32, requires_grad=True)
        tables = torch.empty(1, 5, 1, 16), torch.empty(1, 5, 1, 16)
        outs = [
            norm_operator.rms_norm(x, weight_D, eps=1e-5),
            *norm_operator.norm_of_sum(x, y, weight_D, eps=1e-5),
            norm_operator.add_norm(x, y, weight_D, eps=1e-5),
            swiglu_operator.swiglu(x, y),
            rotary_operator.rotate(heads_BTNK, *tables),
        ]
    assert [(out.shape, out.dtype) for out in outs] == [(x.shape, x.dtype)] * 5 + [(heads_BTNK.shape, heads_BTNK.dtype)]
    inputs = [x, y, weight_D, heads_BTNK]
    gradients = torch.autograd.grad(outs, inputs, [torch.empty_like(out) for out in outs])
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in inputs]


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
