"""The Triton kernels of SwiGLU in Triton's interpreter, to test their arithmetic without a GPU; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.swiglu import operator
from tests.model.kernels.comparisons import assert_known
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["gated views"])
def test_values_and_gradients_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.swiglu.interpreted_swiglu", *checks.split(), caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        gate, up = (torch.empty(2, 5, 96, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        out = operator.swiglu(gate, up)
    assert_known([out], [gate], inputs=[gate, up])
