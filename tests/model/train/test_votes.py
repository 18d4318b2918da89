"""What ranks sum beside the loss: exact, the same on every rank, and for no collective more."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist

from model.build import build_model
from model.optim.build import build_optimizer
from model.parallel.config import ParallelConfig
from model.parallel.mesh import Mesh, build_mesh
from model.train.metrics import StepMetrics
from model.train.step import train_step
from tests.model.gloo_world import run_in_world
from tests.model.layout_cases import CPU, MODEL, OPTIMIZER, batches, in_fp32
from tests.model.layout_cases import Case as AnyCase

CASE = in_fp32(AnyCase())
LARGE = float(2**51 - 1)


def step_of(mesh: Mesh | None) -> Callable[..., tuple[StepMetrics, list[float]]]:
    """The first step of a fresh model."""
    model = build_model(MODEL, mesh, device=CPU, seed=3)
    optimizer = build_optimizer(model, model.declared, OPTIMIZER)
    return partial(train_step, model, optimizer, batches(1, mesh, CASE), lr=1e-2, config=OPTIMIZER, chunk_tokens=11, mesh=mesh)


def test_a_rank_alone_gets_its_own_votes_back_and_the_same_step() -> None:
    without, nothing = step_of(None)()
    with_votes, sums = step_of(None)(votes=[1.0, LARGE])

    assert (nothing, sums) == ([], [1.0, LARGE])
    assert with_votes == without


def test_ranks_sum_their_votes_in_the_reduction_that_they_make_anyway(tmp_path: Path) -> None:
    run_in_world(2, _each_layout_sums, tmp_path)


def _each_layout_sums(_: Path) -> None:
    rank = dist.get_rank()
    for layout in (ParallelConfig(dp_shard=2), ParallelConfig(tp=2), ParallelConfig(cp=2)):
        mesh = build_mesh(layout, "cpu")
        num_without, (without, _nothing) = _counted(step_of(mesh))
        num_with, (metrics, sums) = _counted(partial(step_of(mesh), votes=[float(rank == 1), LARGE, LARGE + rank]))

        assert sums == [1.0, 2 * LARGE, 2 * LARGE + 1], layout
        assert metrics.loss == pytest.approx(without.loss, rel=1e-12), layout
        assert (metrics.grad_norm, metrics.tokens) == (without.grad_norm, without.tokens), layout
        assert num_with == num_without, layout


def _counted(step: Callable[[], tuple[StepMetrics, list[float]]]) -> tuple[int, tuple[StepMetrics, list[float]]]:
    """How many collectives of the default group the step asks for by name, and what it returns."""
    with pytest.MonkeyPatch.context() as patch:
        calls: list[str] = []
        for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object"):
            original = getattr(dist, name)
            patch.setattr(
                dist, name, lambda *args, _name=name, _original=original, **options: (calls.append(_name), _original(*args, **options))[1]
            )
        result = step()
    return len(calls), result
