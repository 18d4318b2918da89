"""The fused layers' Triton kernels in Triton's interpreter, so that a machine without a GPU tests their arithmetic; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.conv import operator as conv_operator
from model.kernels.gated_norm import operator as gated_norm_operator
from model.kernels.gates import operator as gates_operator
from tests.model.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("check", ["convolution_and_norm", "convolution", "gates", "gated_norm", "views"])
def test_values_and_gradients_are_those_of_the_definition(check: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.interpreted_layers", check, caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        x_BTC, weight_C1W = torch.empty(2, 5, 96, dtype=torch.bfloat16, requires_grad=True), torch.empty(96, 1, 4, requires_grad=True)
        heads_BTNV, weight_V = torch.empty(2, 5, 3, 32, requires_grad=True), torch.empty(32, requires_grad=True)
        a_BTN, vector_N = torch.empty(2, 5, 3, dtype=torch.bfloat16, requires_grad=True), torch.empty(3, requires_grad=True)
        outs = [
            conv_operator.conv_silu(x_BTC, weight_C1W, None),
            conv_operator.conv_silu_norm(x_BTC, weight_C1W, torch.empty(2, 5, dtype=torch.int64), head_dim=48, scale=1.0),
            gated_norm_operator.gated_norm(heads_BTNV, heads_BTNV.bfloat16(), weight_V, eps=1e-5),
            *gates_operator.decay_and_beta(a_BTN, a_BTN, vector_N, vector_N),
        ]
    narrow, wide = torch.bfloat16, torch.float32
    assert [out.dtype for out in outs] == [narrow, narrow, narrow, wide, wide]
    assert [out.shape for out in outs] == [x_BTC.shape, x_BTC.shape, heads_BTNV.shape, a_BTN.shape, a_BTN.shape]
    inputs = [x_BTC, weight_C1W, heads_BTNV, weight_V, a_BTN, vector_N]
    gradients = torch.autograd.grad(outs, inputs, [torch.empty_like(out) for out in outs])
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in inputs]


def test_positions_of_other_rows_are_refused_before_a_kernel_reads_past_them() -> None:
    x_BTC, weight_C1W = torch.zeros(2, 5, 32), torch.zeros(32, 1, 4)
    with pytest.raises(ValueError, match=r"^positions of \[2, 4\] tokens for \[2, 5\]: build the documents for these rows$"):
        conv_operator.conv_silu(x_BTC, weight_C1W, torch.zeros(2, 4, dtype=torch.int64))
