"""The Triton kernels of the norms in Triton's interpreter, to test their arithmetic without a GPU; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.norm import operator
from tests.model.kernels.comparisons import assert_known
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["norms", "views"])
def test_values_and_gradients_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.norm.interpreted_norm", *checks.split(), caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        x, y = (torch.empty(2, 5, 96, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        weight_D = torch.empty(96, requires_grad=True)
        outs = [
            operator.rms_norm(x, weight_D, eps=1e-5),
            *operator.norm_of_sum(x, y, weight_D, eps=1e-5),
            operator.add_norm(x, y, weight_D, eps=1e-5),
        ]
    assert_known(outs, [x] * 4, inputs=[x, y, weight_D])
