"""Free nodes that a run holds ready: on a simulated fleet, where an agent that is there stands for processes that stand by."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.control.cluster import Observation
from orchestrator.fleet.simulated import SimulatedFleet
from orchestrator.messages import Mode
from orchestrator.records.nodes import Standing
from tests.orchestrator.fleet.stories import A, B, C, D, Watch, agent_on, is_gone, run_config, seen_on, wanted


def watching(fleet: SimulatedFleet, *, spares: int = 1, epoch: int = 1) -> Watch:
    return Watch(fleet, config=run_config(spares=spares), epoch=epoch)


def those_there(fleet: SimulatedFleet) -> list[str]:
    return [node for node in (A, B, C, D) if agent_on(fleet, node) is not None]


def are_gone(attempt: int, *nodes: str) -> Callable[[Observation], bool]:
    return lambda seen: all(is_gone(seen_on(seen, node), attempt) for node in nodes)


def test_a_free_node_is_held_without_workers_while_an_attempt_runs():
    fleet = SimulatedFleet(num_nodes=4)

    seen = watching(fleet).want(wanted(1, A, B)).until_trains()

    assert those_there(fleet) == [A, B, C]
    assert sorted(node for _, node, _ in fleet.spawned) == [A, B]
    assert [agent.node for agent in seen.agents_of(1)] == [A, B]


def test_a_run_that_wants_none_holds_none():
    fleet = SimulatedFleet(num_nodes=4)
    watching(fleet, spares=0).want(wanted(1, A, B)).until_trains()

    assert those_there(fleet) == [A, B]


def test_a_spare_stays_when_a_node_can_be_used_again_that_comes_before_it_by_name():
    fleet = SimulatedFleet(num_nodes=4)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.registry.standings = {"machine-00002": Standing(cordoned="broken fan")}
    watch.until_trains()
    spare = agent_on(fleet, D)

    watch.registry.standings = {}
    watch.watch_for(30.0)

    assert those_there(fleet) == [A, B, D]
    assert agent_on(fleet, D) is spare


def test_the_next_attempt_finds_the_spares_agent_and_another_node_is_held_in_its_stead():
    fleet = SimulatedFleet(num_nodes=4)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.until_trains()
    spare = agent_on(fleet, C)
    fleet.kill_node(B)
    watch.want_mode(Mode.KILL).until(are_gone(1, A))

    watch.want(wanted(2, A, C)).until_trains()

    assert agent_on(fleet, C) is spare
    watch.until(lambda _: those_there(fleet) == [A, C, D])


def test_a_spare_whose_agent_ends_is_not_tried_again_before_the_next_attempt():
    fleet = SimulatedFleet(num_nodes=3)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.until_trains()
    fleet.kill_agent(C)

    watch.watch_for(60.0)
    assert those_there(fleet) == [A, B]
    watch.want_mode(Mode.KILL).until(are_gone(1, A, B))
    watch.want(wanted(2, A, B)).until_trains()

    watch.until(lambda _: those_there(fleet) == [A, B, C])


def test_a_node_that_was_left_is_held_ready_once_its_old_agent_is_gone():
    fleet = SimulatedFleet(num_nodes=3)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.until_trains()
    left = agent_on(fleet, B)
    watch.want_mode(Mode.KILL).until(are_gone(1, A, B))

    watch.want(wanted(2, A, C)).until_trains()

    watch.until(lambda _: those_there(fleet) == [A, B, C])
    assert agent_on(fleet, B) is not left


def test_a_spare_gives_way_to_a_node_with_fewer_strikes_as_attempts_are_placed():
    fleet = SimulatedFleet(num_nodes=4)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.until_trains()

    watch.registry.standings = {"machine-00002": Standing(strikes=1)}

    watch.until(lambda _: those_there(fleet) == [A, B, D])


def test_a_cordoned_machine_is_no_spare_any_more():
    fleet = SimulatedFleet(num_nodes=4)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.until_trains()

    watch.registry.standings = {"machine-00002": Standing(cordoned="broken fan")}

    watch.until(lambda _: those_there(fleet) == [A, B, D])


def test_another_controller_finds_the_spare_and_keeps_it():
    fleet = SimulatedFleet(num_nodes=4)
    first = watching(fleet).want(wanted(1, A, B))
    first.until_trains()
    spare = agent_on(fleet, C)

    second = Watch(fleet, config=run_config(spares=1), epoch=2, desired=wanted(1, A, B, may_start=False))
    second.until_trains()
    second.watch_for(10.0)

    assert agent_on(fleet, C) is spare
    assert those_there(fleet) == [A, B, C]


def test_another_controller_ends_the_agent_of_a_node_that_was_left_rather_than_keep_it():
    fleet = SimulatedFleet(num_nodes=4)
    first = watching(fleet).want(wanted(1, A, B))
    first.until_trains()
    first.want_mode(Mode.KILL).until(are_gone(1, A, B))
    left = agent_on(fleet, B)

    second = Watch(fleet, config=run_config(spares=1), epoch=2, desired=wanted(2, A, C))
    second.until_trains()
    second.watch_for(10.0)

    assert left is not None
    assert agent_on(fleet, B) is not left


def test_nothing_is_held_once_the_run_is_over():
    fleet = SimulatedFleet(num_nodes=3)
    watch = watching(fleet).want(wanted(1, A, B))
    watch.until_trains()

    watch.cluster.close()

    assert those_there(fleet) == []


def test_less_than_none_is_refused():
    with pytest.raises(ValueError, match=r"recovery\.spares=-1"):
        run_config(spares=-1)
