"""The states of a link, as its table has them, and answers that come late or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.attended import AttendedClock
from orchestrator.config import RecoveryConfig
from orchestrator.deadlines import ASK_AGAIN_AFTER_S
from orchestrator.fleet.link import OBEYS, TRANSITIONS, AgentLink, LinkState, Signal
from orchestrator.fleet.simulated import SimulatedFleet, SimulatedTransport
from orchestrator.fleet.transport import AgentUnreachable
from orchestrator.messages import AgentReport, Mode
from orchestrator.node.orders import AgentOrder

KILLS = {before for (before, _), after in TRANSITIONS.items() if after is LinkState.KILLED}


def reached_from(state: LinkState, *, without: tuple[Signal, ...] = ()) -> set[LinkState]:
    found, new = {state}, {state}
    while new:
        new = {after for (before, signal), after in TRANSITIONS.items() if before in new and signal not in without} - found
        found |= new
    return found


def test_every_state_but_the_last_has_a_way_out():
    assert {before for before, _ in TRANSITIONS} == set(LinkState) - {LinkState.ENDED}


def test_every_signal_means_something():
    assert {signal for _, signal in TRANSITIONS} == set(Signal)


@pytest.mark.parametrize("state", LinkState)
def test_every_link_can_come_to_its_end(state: LinkState):
    assert LinkState.ENDED in reached_from(state)


@pytest.mark.parametrize("state", OBEYS)
def test_no_agent_is_killed_that_the_run_still_wants(state: LinkState):
    """However long it is silent: what it does is for its controller to decide, which writes that down first."""
    assert LinkState.KILLED not in reached_from(state, without=(Signal.DISMISSED,))


@pytest.mark.parametrize("state", [LinkState.LOST, LinkState.GIVEN_UP])
def test_an_agent_that_counts_as_gone_does_not_come_back(state: LinkState):
    assert not reached_from(state) & set(OBEYS)


def test_an_agent_that_obeys_is_asked_to_leave_before_it_is_killed():
    assert KILLS.isdisjoint(OBEYS)
    assert {TRANSITIONS[state, Signal.DISMISSED] for state in OBEYS} == {LinkState.LEAVING}


# --- answers ------------------------------------------------------------------------------------------------------------

KILL = AgentOrder(attempt=1, mode=Mode.KILL)


class ScriptedTransport(SimulatedTransport):
    """Answers are what the test says, when it says so."""

    def __init__(self) -> None:
        super().__init__(SimulatedFleet(num_nodes=0))
        self.calls: dict[int, tuple[str, tuple[Any, ...]]] = {}
        self.answers: dict[Any, Any] = {}

    def call(self, agent: Any, method: str, *args: Any) -> int:
        self.calls[len(self.calls)] = method, args
        return len(self.calls) - 1

    def result(self, ref: Any) -> Any:
        if isinstance(self.answers[ref], Exception):
            raise self.answers[ref]
        return self.answers[ref]


class Story:
    """A link, and the agent's answers to it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.transport = ScriptedTransport()
        self.clock = AttendedClock(lambda: self.now_s, max_gap_s=1.0)
        self.link = AgentLink(
            "a", "agent", is_adopted=False, epoch=1, transport=self.transport, clock=self.clock, recovery=RecoveryConfig()
        )

    def calls(self) -> list[str]:
        """The methods that are called now."""
        return [self.transport.calls[int(str(ref))][0] for ref in self.link.calls()]

    def answer(self, method: str, answer: Any) -> bool:
        """To the newest call of the method."""
        ref = max(ref for ref, (called, _) in self.transport.calls.items() if called == method)
        self.transport.answers[ref] = answer
        return self.link.take(ref)

    def later(self, duration_s: float) -> None:
        self.now_s += duration_s
        self.clock.look()
        self.link.look_at_the_clock()


def empty(is_empty: bool = True) -> AgentReport:
    return AgentReport(node="a", attempt=1, is_empty=is_empty)


def test_a_report_that_was_overtaken_by_a_newer_one_changes_nothing():
    story = Story()
    story.link.order(KILL)
    assert story.calls() == ["obey", "report"]

    assert story.answer("obey", (7, empty()))
    assert not story.answer("report", (6, empty(is_empty=False)))

    assert story.link.report == empty()


def test_a_report_that_overtakes_the_word_that_the_order_came_counts_once_that_is_there():
    """It tells the same as the word itself, which need not be repeated."""
    story = Story()
    story.link.order(KILL)
    story.calls()

    story.answer("report", (7, empty()))
    assert story.link.report == empty(is_empty=False)
    assert story.answer("obey", (6, empty(is_empty=False)))

    assert story.link.report == empty()


def test_an_order_that_did_not_get_through_is_given_again():
    story = Story()
    story.link.order(KILL)
    story.calls()
    story.answer("obey", AgentUnreachable("for now"))
    assert story.calls() == []

    story.later(ASK_AGAIN_AFTER_S)

    assert story.calls() == ["obey"]


def test_a_report_without_news_is_none():
    story = Story()
    story.calls()
    assert story.answer("report", (1, empty()))
    story.calls()

    assert not story.answer("report", (1, empty()))
