"""A controller on a simulated fleet: what breaks while the run recovers from what broke before, at every hop."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control.causes import Cause
from orchestrator.control.state import Ending, RunState
from orchestrator.fleet.simulated import SimulatedFleet
from orchestrator.fleet.simulated_training import Pace
from orchestrator.messages import Source
from orchestrator.records.keys import JOURNAL
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.fleet.stories import A, B, C, ControllerDied, D, nodes_of, played, run_config

NUM_STEPS = 200
TRAINS_S, STARTS_S = 30.0, 32.0
"""When the run trains, and when its second attempt starts, if the first one failed then."""
IN_RECOVERY = ("FaultsSeen", "WorkersGone", "AttemptStarted", "TrainingResumed", "StepReached")
"""What a controller writes from a failure to the first step after it."""


@pytest.fixture
def fleet() -> SimulatedFleet:
    return SimulatedFleet(num_nodes=4, num_steps=NUM_STEPS)


def told(end: RunState) -> list[tuple[Cause, str | None, Source, tuple[str, ...]]]:
    return [(one.cause, one.node, one.source, one.left) for one in end.incidents]


def killed_then(fleet: SimulatedFleet, *faults: tuple[float, Callable[[], None]], store: MemoryStore | None = None) -> RunState:
    """The end of a run of which a worker on B is killed first. It finishes."""
    end = played(fleet, (TRAINS_S, lambda: fleet.kill_worker(B)), *faults, store=store)
    assert end.ending is Ending.FINISHED
    assert_no_two_attempts_trained_at_once(fleet)
    return end


def assert_no_two_attempts_trained_at_once(fleet: SimulatedFleet) -> None:
    began = [one for one in fleet.trainings if one.since_s is not None]
    for earlier, later in pairwise(began):
        assert later.since_s is not None
        assert earlier.until_s <= later.since_s


def test_a_killed_worker_alone_costs_no_step_and_no_node(fleet: SimulatedFleet):
    end = killed_then(fleet)

    assert told(end) == [(Cause.KILLED, B, Source.MEMORY, ())]
    assert (end.attempt, nodes_of(end), end.incidents[0].steps_replayed) == (2, [A, B], 0)
    assert end.incidents[0].recovered_after_s == pytest.approx(6.0, abs=1.5), "what starting takes, and next to nothing else"


# --- of another worker, of the same node again ---------------------------------------------------------------------------


def test_another_worker_that_is_killed_while_the_next_attempt_starts_costs_no_node_either(fleet: SimulatedFleet):
    end = killed_then(fleet, (STARTS_S, lambda: fleet.kill_worker(A)))

    assert told(end) == [(Cause.KILLED, B, Source.MEMORY, ()), (Cause.KILLED, A, Source.MEMORY, ())]
    assert nodes_of(end) == [A, B]


def test_a_node_that_kills_a_worker_again_while_the_next_attempt_starts_is_left(fleet: SimulatedFleet):
    end = killed_then(fleet, (STARTS_S, lambda: fleet.kill_worker(B, local_rank=1)))

    assert told(end) == [(Cause.KILLED, B, Source.STORE, ("machine-00001",))] * 2
    assert nodes_of(end) == [A, C]


def test_a_killer_that_comes_back_after_some_steps_loses_the_node(fleet: SimulatedFleet):
    fleet.commit_every = 100
    end = killed_then(fleet, (38.0, lambda: fleet.kill_worker(B)))

    assert [(one.source, one.left) for one in end.incidents] == [(Source.MEMORY, ()), (Source.STORE, ("machine-00001",))]


def test_a_power_cut_that_first_shows_as_a_killed_worker_is_one_failure(fleet: SimulatedFleet):
    end = killed_then(fleet, (TRAINS_S + 0.02, lambda: fleet.kill_node(B)))

    assert told(end) == [(Cause.NODE_LOST, B, Source.STORE, ("machine-00001",))]
    assert (end.attempt, nodes_of(end)) == (2, [A, C])


@pytest.mark.parametrize("later_s", [0.1, 0.5, 2.0, 5.0])
def test_a_node_that_dies_while_the_run_recovers_on_it_is_replaced(fleet: SimulatedFleet, later_s: float):
    end = killed_then(fleet, (TRAINS_S + later_s, lambda: fleet.kill_node(B)))

    assert (end.incidents[-1].cause, end.incidents[-1].node, end.attempt <= 3, nodes_of(end)) == (Cause.NODE_LOST, B, True, [A, C])


@pytest.mark.parametrize("later_s", [0.02, 0.3, 2.0])
def test_an_agent_that_dies_with_or_after_its_worker_takes_the_memory_with_it(fleet: SimulatedFleet, later_s: float):
    end = killed_then(fleet, (TRAINS_S + later_s, lambda: fleet.kill_agent(B)))

    assert (end.incidents[0].cause, end.incidents[-1].source) == (Cause.KILLED, Source.STORE)
    assert nodes_of(end) == ([A, C] if end.incidents[-1].cause is Cause.AGENT_LOST else [A, B])


# --- of the spare --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spare_dies_s", [29.5, 30.0, 31.7, 33.0, 36.0])
def test_a_spare_that_dies_before_while_or_after_it_takes_a_place_is_followed_by_another(fleet: SimulatedFleet, spare_dies_s: float):
    """Before: the cluster still lists it when the place is free."""
    end = played(fleet, (spare_dies_s, lambda: fleet.kill_node(C)), (30.0, lambda: fleet.kill_node(B)))

    assert (end.ending, nodes_of(end)) == (Ending.FINISHED, [A, D])
    assert end.attempt <= 3
    assert {one.cause for one in end.incidents} <= {Cause.NODE_LOST, Cause.AGENT_LOST}
    assert_no_two_attempts_trained_at_once(fleet)


def test_a_run_whose_last_node_but_one_is_lost_waits_and_goes_on_when_it_is_back():
    fleet = SimulatedFleet(num_nodes=2, num_steps=NUM_STEPS)

    def rejoin() -> None:
        fleet.nodes[B].is_alive = fleet.nodes[B].is_listed = True

    end = killed_then(fleet, (STARTS_S, lambda: fleet.kill_node(B)), (100.0, rejoin))

    assert (end.incidents[-1].cause, nodes_of(end)) == (Cause.NODE_LOST, [A, B])


# --- of the controller ---------------------------------------------------------------------------------------------------


class StoreOfDyingControllers(MemoryStore):
    """The controller dies once, right before or after it writes an entry of this kind that follows a failure."""

    def __init__(self, kind: str, *, after: bool) -> None:
        super().__init__()
        self.has_died = False
        self._kind, self._after = f'"kind": "{kind}"'.encode(), after

    def create(self, key: str, data: bytes) -> None:
        is_moment = key.startswith(JOURNAL) and self._kind in data and not self.has_died and self._has_failed(data)
        if is_moment and not self._after:
            self._die()
        super().create(key, data)
        if is_moment:
            self._die()

    def _has_failed(self, data: bytes) -> bool:
        return any(b'"FaultsSeen"' in entry for entry in (data, *self.objects.values()))

    def _die(self) -> None:
        self.has_died = True
        raise ControllerDied


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", IN_RECOVERY)
def test_a_controller_that_dies_at_any_moment_of_a_recovery_changes_nothing_of_it(fleet: SimulatedFleet, kind: str, after: bool):
    store = StoreOfDyingControllers(kind, after=after)
    end = killed_then(fleet, store=store)

    assert store.has_died
    assert (end.epoch, end.attempt, told(end)) == (2, 2, [(Cause.KILLED, B, Source.MEMORY, ())])


@pytest.mark.parametrize("kind", IN_RECOVERY)
def test_a_controller_that_dies_with_a_node_while_the_run_recovers_takes_neither_along(fleet: SimulatedFleet, kind: str):
    class Dying(StoreOfDyingControllers):
        def _die(self) -> None:
            fleet.kill_node(B)
            super()._die()

    end = killed_then(fleet, store=Dying(kind, after=True))

    assert (end.epoch, end.incidents[-1].cause, nodes_of(end)) == (2, Cause.NODE_LOST, [A, C])


# --- of the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_s", [29.0, 30.02, 30.1, 34.0])
def test_a_store_that_is_away_for_a_while_makes_a_recovery_late_and_no_different(fleet: SimulatedFleet, from_s: float):
    def away(operation: str, key: str) -> None:
        if from_s < fleet.now_s < from_s + 20.0:
            raise StoreUnavailable("no answer")

    end = killed_then(fleet, store=MemoryStore(fault=away))

    assert (end.attempt, told(end)) == (2, [(Cause.KILLED, B, Source.MEMORY, ())])


def test_a_node_that_dies_while_the_store_is_away_is_found_once_it_is_back(fleet: SimulatedFleet):
    def away(operation: str, key: str) -> None:
        if 30.02 < fleet.now_s < 50.0:
            raise StoreUnavailable("no answer")

    end = killed_then(fleet, (40.0, lambda: fleet.kill_node(B)), store=MemoryStore(fault=away))

    assert (end.incidents[-1].cause, nodes_of(end)) == (Cause.NODE_LOST, [A, C])


# --- of anything ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_whatever_else_breaks_while_a_run_recovers_it_finishes(seed: int):
    chance = random.Random(seed)
    fleet = SimulatedFleet(num_nodes=6, num_steps=NUM_STEPS, seed=seed, pace=Pace(detection_s=chance.choice([0.5, 1.5, 5.0])))
    kinds = [fleet.kill_worker, fleet.kill_worker, fleet.kill_agent, fleet.kill_node, fleet.pause_node]
    nodes, lost = sorted(fleet.nodes), set[str]()
    faults: list[tuple[float, Callable[[], None]]] = []
    for _ in range(6):
        break_it, node = chance.choice(kinds), chance.choice(nodes)
        is_for_good = break_it in (fleet.kill_node, fleet.pause_node)
        if not is_for_good or len(lost | {node}) <= 3:
            lost |= {node} if is_for_good else set()
            faults.append((chance.uniform(28.0, 48.0), lambda break_it=break_it, node=node: break_it(node)))  # type: ignore[misc]
    store = StoreOfDyingControllers(chance.choice(IN_RECOVERY), after=chance.random() < 0.5)

    end = played(fleet, *faults, config=run_config(heartbeat_timeout_s=6.0), store=store)

    assert (end.ending, end.committed_step) == (Ending.FINISHED, NUM_STEPS)
    assert not {*nodes_of(end)} & {node for node in lost if not fleet.nodes[node].is_alive}
    assert_no_two_attempts_trained_at_once(fleet)
