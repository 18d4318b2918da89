"""The Triton kernels of the convolution in Triton's interpreter, to test their arithmetic without a GPU; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.conv import operator
from tests.model.kernels.comparisons import assert_known
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["convolution_and_norm", "convolution views"])
def test_values_and_gradients_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.conv.interpreted_conv", *checks.split(), caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        x_BTC, weight_C1W = torch.empty(2, 5, 96, dtype=torch.bfloat16, requires_grad=True), torch.empty(96, 1, 4, requires_grad=True)
        outs = [
            operator.conv_silu(x_BTC, weight_C1W, None),
            operator.conv_silu_norm(x_BTC, weight_C1W, torch.empty(2, 5, dtype=torch.int64), head_dim=48, scale=1.0),
        ]
    assert_known(outs, [x_BTC, x_BTC], inputs=[x_BTC, weight_C1W])


def test_positions_of_other_rows_are_refused_before_a_kernel_reads_past_them() -> None:
    x_BTC, weight_C1W = torch.zeros(2, 5, 32), torch.zeros(32, 1, 4)
    with pytest.raises(ValueError, match=r"^positions of \[2, 4\] tokens for \[2, 5\]: build the documents for these rows$"):
        operator.conv_silu(x_BTC, weight_C1W, torch.zeros(2, 4, dtype=torch.int64))
