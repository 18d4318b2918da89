"""One process training: what a step reports, and that it is a function of its inputs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from layout_cases import CPU, MODEL, OPTIMIZER, micro_batches, train, worst_difference

from model.config import ParallelConfig
from model.loss import IGNORED, cross_entropy_sum
from model.optim import build_optimizer
from model.parallelize import build_model
from model.step import train_step
from model.titan import set_determinism

ONE = ParallelConfig()


@pytest.fixture
def deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    set_determinism(0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("deterministic")
def test_two_identical_runs_agree_bit_for_bit() -> None:
    first, second = train(ONE, torch.float32, num_steps=4), train(ONE, torch.float32, num_steps=4)
    assert first.results == second.results
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_micro_batches_with_unequal_valid_tokens_are_one_batch() -> None:
    whole = train(ONE, torch.float64, num_steps=2, num_micro=1)
    parts = train(ONE, torch.float64, num_steps=2, num_micro=4)
    assert [step.loss for step in parts.results] == pytest.approx([step.loss for step in whole.results], rel=1e-12)
    assert worst_difference(parts.weights, whole.weights)[0] < 1e-12


def test_the_loss_is_the_mean_per_valid_token_before_the_update() -> None:
    model = build_model(MODEL, ONE, None, device=CPU, seed=3)
    [(tokens, labels)] = micro_batches(1, ONE, None, 1)
    with torch.no_grad():
        loss_sum, num_valid = cross_entropy_sum(model(tokens), labels, OPTIMIZER.z_loss)

    result = train_step(model, build_optimizer(model, OPTIMIZER), [(tokens, labels)], lr=1e-2, config=OPTIMIZER, mesh=None)

    assert result.loss == pytest.approx((loss_sum / num_valid).item(), rel=1e-6)
    assert result.num_tokens == (labels != IGNORED).sum()


def test_gradients_are_clipped_to_the_norm_and_reported_before() -> None:
    model = build_model(MODEL, ONE, None, device=CPU, seed=3)
    config = replace(OPTIMIZER, clip_norm=1e-3)
    result = train_step(model, build_optimizer(model, config), micro_batches(1, ONE, None, 1), lr=0.0, config=config, mesh=None)
    clipped = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert result.grad_norm > 1e-2
    assert clipped.item() == pytest.approx(1e-3, rel=1e-2)


def test_a_rate_of_zero_changes_nothing() -> None:
    model = build_model(MODEL, ONE, None, device=CPU, seed=3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train_step(model, build_optimizer(model, OPTIMIZER), micro_batches(1, ONE, None, 1), lr=0.0, config=OPTIMIZER, mesh=None)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_batch_is_learnt_by_heart() -> None:
    model = build_model(MODEL, ONE, None, device=CPU, seed=3)
    optimizer = build_optimizer(model, OPTIMIZER)
    batch = micro_batches(1, ONE, None, 1)
    losses = [train_step(model, optimizer, batch, lr=2e-2, config=OPTIMIZER, mesh=None).loss for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]
