"""The loss's Triton kernels in Triton's interpreter, so that a machine without a GPU tests their arithmetic; and where they are used."""

from pathlib import Path

import pytest
import torch

from model.kernels.loss import operator as loss_operator
from model.kernels.operators import takes_kernels
from tests.model.kernels.interpreter import needs_triton, run_interpreted


@needs_triton
@pytest.mark.xdist_group("triton interpreter")
@pytest.mark.parametrize("checks", ["values", "ignored other_ranks_rows without_gradient", "extremes operators", "with_head_and_ranks"])
def test_loss_and_gradient_are_those_of_the_definition(checks: str, tmp_path: Path) -> None:
    run_interpreted("tests.model.kernels.loss.interpreted_loss", *checks.split(), caches=tmp_path)


def test_they_are_for_bf16_and_fp32_on_a_gpu() -> None:
    assert not takes_kernels(torch.empty(2, 3))
    on_a_gpu = [torch.bfloat16, torch.float32]
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        logits = FakeCudaTensor(2, 3, dtype=dtype)
        assert takes_kernels(logits) == (dtype in on_a_gpu)


class FakeCudaTensor(torch.Tensor):
    is_cuda = True

    def __new__(cls, *shape: int, dtype: torch.dtype) -> "FakeCudaTensor":
        return torch.empty(*shape, dtype=dtype).as_subclass(cls)


def test_shapes_and_types_are_known_without_running() -> None:
    with torch.device("meta"):
        logits_CX, target_C = torch.empty(5, 101, dtype=torch.bfloat16), torch.empty(5, dtype=torch.int64)
        statistics = loss_operator.row_statistics(logits_CX, target_C, target_C == 0)
        loss_operator.gradient_(logits_CX, target_C, target_C == 0, *statistics[:2])
    assert [(x.shape, x.dtype) for x in statistics] == [((5,), torch.float32)] * 3
