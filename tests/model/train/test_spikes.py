"""Which updates are skipped as spikes, and that a guard goes on from its history as if it had never stopped."""

import math
import random

import pytest
import torch

from model.optim.config import OptimizerConfig
from model.train.spikes import SpikeGuard, build_spike_guard, is_spike


def guard(*, sigma: float = 3.0, window: int = 8) -> SpikeGuard:
    built = build_spike_guard(OptimizerConfig(skip_sigma=sigma, skip_window=window))
    assert built is not None
    return built


def steady(guard: SpikeGuard, num_steps: int, *, seed: int = 0) -> list[bool]:
    generator = random.Random(seed)
    return [guard.skips(2 + generator.uniform(-0.1, 0.1), 1 + generator.uniform(-0.1, 0.1)) for _ in range(num_steps)]


def test_a_spike_is_sigma_deviations_above_the_mean() -> None:
    history = [1.0, 2.0, 3.0]  # mean 2, deviation 1
    assert not is_spike(5.0, history, 3.0)
    assert is_spike(math.nextafter(5.0, 6), history, 3.0)
    assert not is_spike(-100.0, history, 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_spike(value: float) -> None:
    assert is_spike(value, [1.0, 2.0], 6.0)


def test_without_sigma_there_is_no_guard() -> None:
    assert build_spike_guard(OptimizerConfig()) is None


def test_a_jump_of_either_the_loss_or_the_norm_is_skipped() -> None:
    for loss, norm in ((9.0, 1.0), (2.0, 9.0)):
        one = guard()
        assert not any(steady(one, 8))
        assert one.skips(loss, norm)


def test_nothing_is_judged_before_half_the_window_is_known() -> None:
    one = guard()
    steady(one, 3)
    assert not one.skips(9.0, 9.0)
    one = guard()
    steady(one, 4)
    assert one.skips(9.0, 9.0)


def test_what_is_not_finite_is_skipped_at_once_and_never_remembered() -> None:
    one = guard()
    assert one.skips(math.nan, 1.0)
    steady(one, 8)
    before = one.history.clone()
    assert one.skips(2.0, math.inf)
    assert one.skips(math.nan, 1.0)
    assert torch.equal(one.history, before)
    assert not one.skips(2.0, 1.0)


def test_a_new_level_is_accepted_once_it_is_what_the_window_knows() -> None:
    """Skipped steps belong to the history, or a run whose loss has risen for good would never be updated again."""
    one = guard()
    steady(one, 8)
    skipped = [one.skips(4.0, 1.0) for _ in range(8)]
    assert skipped[0]
    assert not skipped[-1]


def test_only_the_window_counts() -> None:
    one = guard()
    for _ in range(4):
        one.skips(50.0, 50.0)
    steady(one, 8)
    assert one.history.max() < 3
    assert one.skips(9.0, 1.0)


def test_a_guard_with_the_same_history_decides_alike_ever_after() -> None:
    """Its history is its whole memory: loaded in place by a fresh guard in mid-run, at any fill."""
    losses = [2.0, 2.1, 1.9, 2.2, 30.0, 2.0, 2.1, math.nan, 1.8, 2.0, 2.1, 40.0, 2.0, 5.0, 2.0]
    for cut in range(len(losses)):
        straight, fresh = guard(), guard()
        expected = [straight.skips(loss, 1.0) for loss in losses[:cut]]
        fresh.history.copy_(straight.history)
        expected = [straight.skips(loss, 1.0) for loss in losses[cut:]]
        assert [fresh.skips(loss, 1.0) for loss in losses[cut:]] == expected
        assert torch.equal(fresh.history.nan_to_num(-1), straight.history.nan_to_num(-1))


def test_the_history_keeps_its_place_and_its_shape() -> None:
    one = guard()
    history = one.history
    assert history.isnan().all()
    steady(one, 20)
    assert one.history is history
    assert (history.shape, history.dtype, history.device.type) == ((8, 2), torch.float64, "cpu")


def test_a_window_too_small_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^optimizer\.skip_window=1: .*; use 2 or more, such as 128$"):
        OptimizerConfig(skip_sigma=6.0, skip_window=1)
