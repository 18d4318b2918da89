"""The Triton kernels of the gates in Triton's interpreter, to test their arithmetic without a GPU; and their shapes."""

from pathlib import Path

import pytest
import torch

from model.kernels.gates import operator
from tests.model.kernels.comparisons import assert_known
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["gates views"])
def test_values_and_gradients_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.gates.interpreted_gates", *checks.split(), caches=tmp_path)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        a_BTN, vector_N = torch.empty(2, 5, 3, dtype=torch.bfloat16, requires_grad=True), torch.empty(3, requires_grad=True)
        outs = operator.decay_and_beta(a_BTN, a_BTN, vector_N, vector_N)
    assert_known(outs, [a_BTN.float(), a_BTN.float()], inputs=[a_BTN, vector_N])
