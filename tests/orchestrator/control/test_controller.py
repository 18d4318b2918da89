"""The loop, with a fake cluster and a store in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control.controller import stop_without_cluster
from orchestrator.control.events import AttemptStarted, StopRequested, WorkersGone
from orchestrator.control.history import KINDS, open_history, read_state
from orchestrator.deadlines import JOURNAL_RETRY_S, POLL_S
from orchestrator.messages import Mode
from orchestrator.records.journal import read_journal
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.fake_cluster import FakeCluster, build, kinds, modes
from tests.orchestrator.control.stories import TERMS, submitted


def test_a_run_is_carried_to_its_end_and_nothing_is_left_behind():
    cluster = FakeCluster(store := MemoryStore())
    state = build(store, cluster).run()
    assert (state.label, state.epoch) == ("finished", 1)
    assert cluster.is_closed
    assert modes(cluster) == [(1, Mode.RUN), (1, Mode.KILL)]


def test_a_killed_worker_costs_an_attempt_not_the_run():
    cluster = FakeCluster(store := MemoryStore())
    cluster.exits.append(-9)
    state = build(store, cluster).run()
    (incident,) = state.incidents
    assert (state.label, state.attempt, incident.at_step, incident.steps_replayed) == ("finished", 2, 5, 5)
    assert [one.machine for one in state.placement] == ["m0", "m1"], "the spare is left alone"
    assert modes(cluster) == [(1, Mode.RUN), (1, Mode.KILL), (2, Mode.RUN), (2, Mode.KILL)]


def test_what_follows_from_a_decision_waits_for_no_news():
    cluster = FakeCluster(store := MemoryStore())
    cluster.exits.append(-9)
    build(store, cluster).run()
    at_s = {type(entry.event).__name__: entry.event.at_s for entry in read_journal(store, KINDS)[:-2]}
    assert at_s["WorkersGone"] == at_s["AttemptStarted"], "the next attempt, once the one before is gone"


def test_nothing_is_asked_of_the_cluster_before_it_is_in_the_journal():
    cluster = FakeCluster(store := MemoryStore())
    build(store, cluster).run()
    first_run = next(index for index, one in enumerate(cluster.asked) if one.mode is Mode.RUN)
    assert kinds(store)[cluster.entries_before[first_run] - 1] == "AttemptStarted"
    assert [kinds(store)[number - 1] for number in cluster.entries_before[-2:]] == ["WorkersEnded", "WorkersGone"]


def test_what_ended_the_run_is_held_against_its_machine():
    cluster = FakeCluster(store := MemoryStore())
    open_history(store, "submitter").append(submitted(replace(TERMS, recovery=replace(TERMS.recovery, max_restarts=0))))
    cluster.exits.append(-9)
    assert build(store, cluster).run().label == "failed"
    assert [(one.machine, one.cause, one.strikes) for one in cluster.desired.findings] == [("m1", "killed", 1)]


def test_a_stop_that_is_asked_for_is_done_and_repeating_it_writes_nothing():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster)
    controller._open()
    for _ in range(6):
        controller._tick()
    for _ in range(2):
        controller.request(StopRequested(at_s=1.0, now=False))
    state = controller.run()
    assert (state.label, state.reason) == ("stopped", "stopped on request at step 6")
    assert kinds(store).count("StopRequested") == 1


def test_a_run_without_any_process_is_ended_in_one_entry():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster)
    controller._open()
    for _ in range(6):
        controller._tick()
    before = len(kinds(store))
    stop_without_cluster(open_history(store), 9.0)
    assert (read_state(store).label, len(kinds(store))) == ("stopped", before + 1)


def test_while_the_store_is_away_nothing_is_done_and_then_everything(caplog: pytest.LogCaptureFixture):
    cluster, slept = FakeCluster(store := MemoryStore()), []
    controller = build(store, cluster, slept=slept)
    outages = deque([StoreUnavailable("no answer")] * 3)

    told = []

    def away(operation: str, key: str) -> None:
        told.append(controller.view.store_trouble)
        if outages and operation == "create":
            raise outages.popleft()

    store.fault = away
    assert controller.run().label == "finished"
    assert "no answer" in told, "who looks after people's alerts sees it meanwhile"
    assert controller.view.store_trouble == told[-1] == ""
    assert slept == [JOURNAL_RETRY_S] * 3
    assert caplog.text.count("the journal can't be reached, trying again: no answer") == 3


def test_a_wait_is_counted_from_the_moment_at_which_it_was_ordered():
    cluster = FakeCluster(store := MemoryStore())
    cluster.exits.extend((-9, -9))
    build(store, cluster).run()
    at_s = {(type(entry.event), entry.event.attempt): entry.event.at_s for entry in read_journal(store, KINDS) if entry.sequence > 2}
    waited_s = at_s[AttemptStarted, 3] - at_s[WorkersGone, 2]
    assert submitted().terms.recovery.backoff_s <= waited_s < submitted().terms.recovery.backoff_s + 1.0


def test_an_entry_that_leaves_the_stage_as_it_is_does_not_begin_the_wait_anew():
    cluster = FakeCluster(store := MemoryStore())
    cluster.nodes = cluster.nodes[:1]
    controller = build(store, cluster)
    controller._open()
    for _ in range(3):
        controller._tick()
    assert kinds(store)[-1] == "NodesShort"
    assert controller.view.in_stage_s == pytest.approx(cluster.now_s)


def test_time_in_which_nobody_looked_does_not_count_as_waiting():
    cluster = FakeCluster(store := MemoryStore())
    cluster.nodes = cluster.nodes[:1]
    controller = build(store, cluster)
    controller._open()
    controller._tick()
    watched_s = controller.view.in_stage_s
    cluster.now_s += 500.0
    controller._tick()
    assert controller.view.in_stage_s - watched_s == pytest.approx(1.0 + POLL_S)


def test_the_view_has_what_was_seen_last():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster)
    assert (controller.view.seen, controller.view.in_stage_s) == (None, 0.0)
    controller._open()
    controller._tick()
    assert controller.view.seen is not None
    assert controller.view.state == read_state(store)
