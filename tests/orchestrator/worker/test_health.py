"""When a run's numbers lead nowhere any more."""

import math
from dataclasses import replace

import pytest

from model.optim.config import OptimizerConfig
from model.train.metrics import StepMetrics
from orchestrator.config import RecoveryConfig
from orchestrator.errors import Diverged
from orchestrator.worker.health import Health

GOOD = StepMetrics(loss=2.0, grad_norm=1.0, tokens=64)
SPIKE = replace(GOOD, skipped=True)
NAN, INF, Z = (replace(SPIKE, **bad) for bad in ({"loss": math.nan}, {"grad_norm": math.inf}, {"z_loss": math.inf}))


def steps_taken(*measured: StepMetrics, optimizer: OptimizerConfig | None = None, ends: bool = False, **recovery: object) -> int:
    """Of so many steps; it ends the run when not all are."""
    health = Health(RecoveryConfig(**recovery), optimizer or OptimizerConfig())
    for step, metrics in enumerate(measured, start=1):
        try:
            health.check(step, metrics, is_last=ends and step == len(measured))
        except Diverged:
            return step - 1
    return len(measured)


@pytest.mark.parametrize("bad", [NAN, INF, Z])
def test_a_few_steps_in_a_row_that_are_not_finite_are_passed_over_and_one_more_ends_the_attempt(bad: StepMetrics):
    assert steps_taken(GOOD, bad, bad, bad, GOOD, bad, bad, bad, GOOD) == 9
    assert steps_taken(GOOD, bad, bad, bad, bad) == 4
    assert steps_taken(bad, bad, max_nonfinite=1) == 1


@pytest.mark.parametrize("policy", ["rollback", "fail"])
def test_where_nothing_is_to_be_skipped_the_first_one_ends_it(policy: str):
    assert steps_taken(GOOD, NAN, on_nonfinite=policy) == 1
    assert steps_taken(SPIKE, SPIKE, on_nonfinite=policy) == 2, "a spike is finite"


def test_no_run_ends_on_a_step_that_is_not_finite():
    assert steps_taken(GOOD, NAN, ends=True) == 1
    assert steps_taken(GOOD, NAN, GOOD, ends=True) == 3


@pytest.mark.parametrize("policy", ["skip", "rollback", "fail"])
def test_weights_that_make_no_number_of_held_out_text_end_it_at_once(policy: str):
    """The update that made them so was applied: there is none to withhold, and a checkpoint of them is worth nothing."""
    assert steps_taken(GOOD, replace(GOOD, eval_loss=math.nan), on_nonfinite=policy) == 1
    assert steps_taken(GOOD, replace(GOOD, eval_loss=2.0), NAN, replace(NAN, eval_loss=2.0)) == 4


def test_spikes_in_a_row_end_it_once_they_are_half_of_what_steps_are_compared_with():
    optimizer = OptimizerConfig(skip_sigma=6.0, skip_window=8)
    assert steps_taken(*[SPIKE] * 4, GOOD, *[SPIKE] * 4, GOOD, optimizer=optimizer) == 10
    assert steps_taken(GOOD, *[SPIKE] * 9, optimizer=optimizer) == 5


def test_a_short_memory_of_spikes_still_lets_two_in_a_row_pass():
    optimizer = OptimizerConfig(skip_sigma=6.0, skip_window=2)
    assert steps_taken(GOOD, SPIKE, SPIKE, GOOD, SPIKE, SPIKE, SPIKE, optimizer=optimizer) == 6


NUMBERS = "lower optimizer.lr or lengthen its warmup, or look at the data of these steps"
LINES = {
    "the first": (1, RecoveryConfig(max_nonfinite=0), "its update was withheld (recovery.max_nonfinite=0)"),
    "where none may be skipped": (1, RecoveryConfig(on_nonfinite="fail"), "its update was withheld (recovery.on_nonfinite=fail)"),
    "one too many": (3, RecoveryConfig(max_nonfinite=2), "the updates of 3 steps in a row were withheld (recovery.max_nonfinite=2)"),
    "the last": (1, RecoveryConfig(max_nonfinite=5), "its update was withheld (recovery.max_nonfinite=5), the last one of the run"),
}


@pytest.mark.parametrize("name", LINES)
def test_what_it_says_is_one_line_with_the_numbers_the_limit_and_what_to_do(name: str):
    number, recovery, why = LINES[name]
    health = Health(recovery, OptimizerConfig())
    for step in range(1, number):
        health.check(step, NAN, is_last=False)
    with pytest.raises(Diverged) as caught:
        health.check(number, NAN, is_last=name == "the last")
    assert str(caught.value) == f"step {number}: loss nan, gradient norm 1: not finite, {why}; {NUMBERS}"


def test_steps_in_a_row_without_anything_to_learn_end_it():
    empty = replace(GOOD, tokens=0)
    assert steps_taken(empty, empty, empty, GOOD, empty, empty, empty, GOOD) == 8
    assert steps_taken(empty, empty, empty, empty) == 3
