"""The Triton kernels of rotary positions in Triton's interpreter, to test their arithmetic without a GPU; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.rotary import operator
from tests.model.kernels.comparisons import assert_known
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["rotation views"])
def test_values_and_gradients_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.rotary.interpreted_rotary", *checks.split(), caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        heads_BTNK = torch.empty(2, 5, 3, 32, requires_grad=True)
        out_BTNK = operator.rotate(heads_BTNK, torch.empty(1, 5, 1, 16), torch.empty(1, 5, 1, 16))
    assert_known([out_BTNK], [heads_BTNK], inputs=[heads_BTNK])
