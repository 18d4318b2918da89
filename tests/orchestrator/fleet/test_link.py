"""The states of a link, as its table has them."""

from __future__ import annotations

import pytest

from orchestrator.fleet.link import OBEYS, TRANSITIONS, LinkState, Signal

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
