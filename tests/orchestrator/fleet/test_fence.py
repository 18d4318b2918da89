"""Whom an agent obeys, and when it ends by itself."""

from __future__ import annotations

import pytest

from orchestrator.config import RecoveryConfig
from orchestrator.fleet.fence import Fence
from orchestrator.fleet.transport import StaleController


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fence(clock: Clock) -> Fence:
    return Fence(3, RecoveryConfig(orphan_timeout_s=30.0, idle_timeout_s=90.0), clock=clock)


def test_the_newest_controller_is_obeyed_and_every_older_one_refused(fence: Fence):
    fence.check(3)
    fence.check(5)

    with pytest.raises(StaleController, match="controller 4 was replaced by 5"):
        fence.check(4)


def test_an_agent_that_trains_stays_however_long_nobody_speaks(fence: Fence, clock: Clock):
    clock.now_s = 900.0

    assert fence.why_to_end(is_empty=False) is None
    assert "no controller has spoken for 90 s" in (fence.why_to_end(is_empty=True) or "")


def test_an_agent_without_workers_stays_as_long_as_it_is_spoken_to(fence: Fence, clock: Clock):
    clock.now_s = 89.0
    fence.check(3)
    clock.now_s += 89.0

    assert fence.why_to_end(is_empty=True) is None


def test_an_agent_whose_controller_stepped_down_ends_with_its_workers(fence: Fence, clock: Clock):
    fence.step_down(3)
    clock.now_s = 29.0
    assert fence.why_to_end(is_empty=False) is None
    clock.now_s = 31.0

    assert "stepped down" in (fence.why_to_end(is_empty=False) or "")


def test_an_agent_ends_too_when_a_controller_steps_down_that_had_not_spoken_to_it_yet(fence: Fence, clock: Clock):
    """It lost the run between its first entry and its first word."""
    fence.step_down(4)
    clock.now_s = 31.0

    assert "stepped down" in (fence.why_to_end(is_empty=False) or "")
    with pytest.raises(StaleController):
        fence.check(3)


def test_it_stays_where_a_newer_controller_has_spoken_before_or_after(fence: Fence, clock: Clock):
    fence.step_down(3)
    fence.check(4)
    fence.step_down(3)
    clock.now_s = 31.0

    assert fence.why_to_end(is_empty=False) is None
