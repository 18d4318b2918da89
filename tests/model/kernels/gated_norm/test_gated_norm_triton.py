"""The Triton kernels of the gated norm in Triton's interpreter, to test their arithmetic without a GPU; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.gated_norm import operator
from tests.model.kernels.comparisons import assert_known
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["gated_norm views"])
def test_values_and_gradients_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.gated_norm.interpreted_gated_norm", *checks.split(), caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        heads_BTNV, weight_V = torch.empty(2, 5, 3, 32, requires_grad=True), torch.empty(32, requires_grad=True)
        out_BTNV = operator.gated_norm(heads_BTNV, heads_BTNV.bfloat16(), weight_V, eps=1e-5)
    assert_known([out_BTNV], [heads_BTNV.bfloat16()], inputs=[heads_BTNV, weight_V])
