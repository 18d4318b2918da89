"""One controller follows another: the newest one has the run, and no agent is left with nobody."""

from __future__ import annotations

from collections import deque

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control.controller import stop_without_cluster
from orchestrator.control.events import ControllerStarted, FoundDead, StopRequested
from orchestrator.control.history import open_history, read_state
from orchestrator.control.state import Stage
from orchestrator.deadlines import JOURNAL_RETRY_S
from orchestrator.errors import Superseded
from orchestrator.messages import Mode
from tests.fakes.memory_store import MemoryStore, no_fault
from tests.orchestrator.control.fake_cluster import FakeCluster, build, modes
from tests.orchestrator.control.stories import submitted


def test_what_was_decided_but_never_begun_is_begun_by_the_next_controller():
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    old._tick()
    assert (read_state(store).stage, cluster.desired.attempt) == (Stage.STARTING, 0), "it dies between the entry and the act"
    state = build(store, cluster, "new").run()
    assert (state.label, state.attempt, state.incidents) == ("finished", 1, ())


def test_a_new_controller_finds_the_workers_running_in_the_same_attempt():
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    for _ in range(6):
        old._tick()
    state = build(store, cluster, "new").run()
    assert (state.label, state.attempt, state.epoch) == ("finished", 1, 2)
    epoch, taken_over = cluster.attached[-1]
    assert (epoch, taken_over.attempt, taken_over.mode, taken_over.may_start) == (2, 1, Mode.RUN, False)
    assert modes(cluster) == [(1, Mode.RUN), (1, Mode.KILL)]


def test_the_old_controller_steps_down_and_touches_nothing_more():
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    old._tick()
    old._tick()
    build(store, cluster, "new")._open()
    old.request(StopRequested(at_s=1.0, now=True))
    with pytest.raises(Superseded) as raised:
        old._tick()
    assert raised.value.writer == "new"
    assert modes(cluster) == [(1, Mode.RUN)], "the stop that it could not write is asked of nobody"


def taken_over_at_step_10(store: MemoryStore, cluster: FakeCluster, event) -> None:
    def intervene(operation: str, key: str) -> None:
        if cluster.step() == 10:
            store.fault = no_fault
            open_history(store, "elsewhere").append(event)

    store.fault = intervene


def test_a_controller_whose_run_was_ended_from_elsewhere_ends_its_workers():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster, "here")
    taken_over_at_step_10(store, cluster, FoundDead(at_s=5.0))
    with pytest.raises(Superseded):
        controller.run()
    assert (cluster.is_closed, cluster.has_stepped_down, len(cluster.attached)) == (True, False, 1)


def test_a_controller_that_finds_its_run_ended_before_it_could_begin_ends_the_workers_of_the_one_before():
    """A person ends the run between the moment at which the new controller reads the journal and its first entry."""
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    old._tick()
    new = build(store, cluster, "new")
    stop_without_cluster(open_history(store), 9.0)
    with pytest.raises(Superseded):
        new.run()
    _, (epoch, taken_over) = cluster.attached
    assert (epoch, taken_over.held, cluster.is_closed) == (1, (), True), "agents obey the epoch of the controller that spoke to them last"


def test_a_controller_that_another_one_overtakes_before_it_could_begin_tells_the_agents_here():
    """The other may be on another cluster: nobody would speak to these agents again, and they would train on."""
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    old._tick()
    new = build(store, cluster, "new")
    open_history(store, "elsewhere").append(ControllerStarted(at_s=5.0, epoch=2))
    with pytest.raises(Superseded):
        new.run()
    epoch, met = cluster.attached[-1]
    assert (cluster.has_stepped_down, cluster.is_closed) == (True, False)
    assert (epoch, met.held, met.may_start) == (1, ("node0", "node1"), False), "they obey the controller before it; none is started"


def test_a_controller_takes_over_from_whoever_writes_while_it_begins_unless_that_is_a_newer_one():
    """The controller before it, which was taken for dead, or a person: were it to leave then, nobody might be left."""
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    new = build(store, cluster, "new")
    old._tick()
    assert read_state(store).attempt == 1
    state = new.run()
    assert (state.label, state.epoch, state.attempt) == ("finished", 2, 1)
    with pytest.raises(Superseded):
        old._append(StopRequested(at_s=1.0, now=True))


def test_a_store_that_is_away_does_not_keep_a_replaced_controller_from_stepping_down():
    cluster, slept = FakeCluster(store := MemoryStore()), []
    controller = build(store, cluster, "old", slept)
    outages = deque([StoreUnavailable("no answer")] * 2)

    def intervene(operation: str, key: str) -> None:
        if cluster.step() == 10 and operation == "create" and outages:
            store.fault = no_fault
            open_history(store, "elsewhere").append(ControllerStarted(at_s=5.0, epoch=2))
            store.fault = away

    def away(operation: str, key: str) -> None:
        if operation == "list" and outages:
            raise outages.popleft()

    store.fault = intervene
    with pytest.raises(Superseded):
        controller.run()
    assert (cluster.has_stepped_down, slept) == (True, [JOURNAL_RETRY_S] * 2)


def test_a_controller_that_is_replaced_leaves_the_workers_to_the_other():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster, "old")
    taken_over_at_step_10(store, cluster, ControllerStarted(at_s=5.0, epoch=2))
    with pytest.raises(Superseded):
        controller.run()
    assert (cluster.is_closed, cluster.has_stepped_down) == (False, True)


def test_a_wait_is_counted_by_the_one_who_waits():
    """A backoff that an earlier controller ordered lasts as long again for its successor, whatever its clock says."""
    cluster = FakeCluster(store := MemoryStore())
    cluster.exits.extend((-9, -9))
    old = build(store, cluster, "old")
    old._open()
    while read_state(store).wait_s == 0.0:
        old._tick()
    cluster.now_s += 3600.0
    new = build(store, cluster, "new")
    new._open()
    since_s = cluster.now_s
    while read_state(store).attempt == 2:
        new._tick()
    waited_s = cluster.now_s - since_s
    assert read_state(store).attempt == 3
    assert submitted().terms.recovery.backoff_s <= waited_s < submitted().terms.recovery.backoff_s + 1.0
