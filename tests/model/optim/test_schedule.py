"""The learning rate's course: where it begins, that it never jumps, where it ends."""

from dataclasses import replace
from itertools import pairwise

import pytest

from model.optim.config import OptimizerConfig
from model.optim.schedule import decay_steps, lr_at, validate_schedule, warmup_steps

CONFIG = OptimizerConfig(lr=1.0, warmup_steps=10, lr_floor=0.1)
WSD = replace(CONFIG, schedule="wsd", decay_steps=20)
TOKENS = 1000


def rate(step: int, config: OptimizerConfig = CONFIG, *, num_steps: int = 110) -> float:
    return lr_at(step, config, num_steps=num_steps, tokens_per_step=TOKENS)


def test_it_warms_up_then_follows_a_cosine_to_its_floor() -> None:
    rates = [rate(step) for step in (1, 10, 35, 60, 110)]
    assert rates == pytest.approx([0.1, 1.0, 0.55 + 0.45 * 2**-0.5, 0.55, 0.1])  # a quarter of the way a line would be at 0.775


def test_a_line_goes_down_evenly() -> None:
    assert [rate(step, replace(CONFIG, schedule="linear")) for step in (5, 10, 60, 85, 110)] == pytest.approx([0.5, 1.0, 0.55, 0.325, 0.1])


def test_wsd_stays_until_its_decay() -> None:
    assert [rate(step, WSD) for step in (5, 10, 11, 90, 91, 100, 110)] == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.955, 0.55, 0.1])


def test_a_wsd_that_is_trained_longer_decays_later() -> None:
    assert rate(100, WSD, num_steps=200) == 1.0
    assert rate(200, WSD, num_steps=200) == 0.1


def test_mid_training_is_a_line_from_the_first_step_to_nothing() -> None:
    config = OptimizerConfig(lr=2.0712e-4, schedule="linear", warmup_steps=0, lr_floor=0.0)
    assert rate(1, config, num_steps=4) == pytest.approx(2.0712e-4 * 0.75)
    assert rate(4, config, num_steps=4) == 0.0


SCHEDULES = [CONFIG, replace(CONFIG, schedule="linear"), WSD, replace(WSD, warmup_steps=90), replace(WSD, decay_steps=100)]


@pytest.mark.parametrize("config", SCHEDULES)
def test_both_ends_are_exact_and_nothing_jumps(config: OptimizerConfig) -> None:
    config = replace(config, lr=3e-4, lr_floor=0.3)
    rates = [rate(step, config) for step in range(1, 111)]
    assert rates[config.warmup_steps - 1] == max(rates) == 3e-4
    assert rates[-1] == 3e-4 * 0.3
    assert rate(500, config) == rates[-1]
    after = rates[config.warmup_steps - 1 :]
    assert after == sorted(after, reverse=True)
    largest = max(1 / config.warmup_steps, 0.7 / (config.decay_steps or 110 - config.warmup_steps) * 1.6)
    assert max(abs(later - earlier) for earlier, later in pairwise(rates)) <= 3e-4 * largest * 1.001


def test_a_run_shorter_than_its_warmup_only_warms_up() -> None:
    assert rate(5, num_steps=5) == pytest.approx(0.5)
    assert rate(10, num_steps=10) == 1.0
    assert rate(11, num_steps=10) == pytest.approx(0.1)  # were there one more step


def test_tokens_count_up_to_whole_steps_and_win_over_steps() -> None:
    config = replace(WSD, warmup_tokens=4001, decay_steps=0, decay_tokens=6000)
    assert (warmup_steps(config, TOKENS), decay_steps(config, TOKENS)) == (5, 6)
    assert warmup_steps(replace(config, warmup_tokens=1), TOKENS) == 1
    assert rate(5, config) == rate(104, config) == 1.0
    assert rate(4, config) < 1.0
    assert rate(105, config) < 1.0


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            WSD,
            "optimizer.decay_steps=20: 20 steps of decay after 10 of warmup are more than train.num_steps=29; shorten them, or train 30 ",
        ),
        (
            replace(WSD, decay_steps=0, decay_tokens=19_500),
            "optimizer.decay_tokens=19500: 20 steps of decay after 10 of warmup are more than ",
        ),
    ],
)
def test_a_wsd_that_does_not_fit_its_run_is_refused(config: OptimizerConfig, line: str) -> None:
    validate_schedule(config, num_steps=30, tokens_per_step=TOKENS)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the line is compared below
        validate_schedule(config, num_steps=29, tokens_per_step=TOKENS)
    assert str(caught.value).startswith(line)


def test_other_schedules_may_be_longer_than_a_run() -> None:
    validate_schedule(CONFIG, num_steps=3, tokens_per_step=TOKENS)


def test_a_wsd_without_a_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^optimizer\.schedule=wsd: no decay; set optimizer\.decay_steps or optimizer\.decay_tokens$"):
        OptimizerConfig(schedule="wsd")
