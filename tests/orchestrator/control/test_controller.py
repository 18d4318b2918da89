"""The loop, with a fake cluster and a store in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.controller import Controller, stop_without_cluster
from orchestrator.control.desired import Desired
from orchestrator.control.events import AttemptStarted, ControllerStarted, FoundDead, StopRequested, WorkersGone
from orchestrator.control.history import KINDS, open_history, read_state
from orchestrator.control.placement import Node
from orchestrator.control.state import Stage
from orchestrator.control.summary import summarise
from orchestrator.deadlines import JOURNAL_RETRY_S, POLL_S
from orchestrator.errors import Superseded
from orchestrator.messages import AgentReport, Ended, Mode, Outcome, Phase, Resumed, WorkerReport
from orchestrator.records.journal import read_journal
from tests.fakes.memory_store import MemoryStore, no_fault
from tests.orchestrator.control.stories import TERMS, submitted


class FakeCluster:
    """Three nodes; it is at once what it is desired to be. `exits` hold the exit code of rank 1 at step 5, one for each attempt."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.nodes = tuple(Node(node=f"node{n}", machine=f"m{n}", slots=1) for n in range(3))
        self.desired = Desired()
        self.reports: dict[str, AgentReport] = {}
        self.exits: deque[int] = deque()
        self.asked: list[Desired] = []
        self.entries_before: list[int] = []
        self.attached: list[tuple[int, Desired]] = []
        self.is_closed = self.has_stepped_down = False
        self.now_s = 0.0

    def attach(self, *, epoch: int, desired: Desired) -> None:
        self.attached.append((epoch, desired))

    def reconcile(self, desired: Desired) -> None:
        if desired != self.desired:
            self.asked.append(desired)
            self.entries_before.append(len(read_journal(self.store, KINDS)))
        if desired.attempt > self.desired.attempt:
            workers = [WorkerReport(rank=rank, pid=rank, resumed=Resumed(step=0)) for rank in range(desired.world_size)]
            self.reports = {
                node: AgentReport(node=node, attempt=desired.attempt, workers=(worker,), is_empty=False)
                for node, worker in zip(desired.placement, workers, strict=True)
            }
        if desired.mode is Mode.KILL:
            self._change(lambda worker: replace(worker, exit_code=-9, killed_by_agent=True), is_empty=True)
        self.desired = desired

    def poll(self, *, timeout_s: float) -> Observation:
        self.now_s += timeout_s
        self._work()
        agents = tuple(AgentSeen(node=node, report=report, summary=summarise(report.workers)) for node, report in self.reports.items())
        return Observation(at_s=self.now_s, nodes=self.nodes, agents=agents)

    def _work(self) -> None:
        if self.desired.mode is Mode.KILL:
            return
        workers = [report.workers[0] for report in self.reports.values()]
        if workers[0].step == 5 and self.exits:
            exit_code = self.exits.popleft()
            self._change(lambda worker: replace(worker, exit_code=exit_code) if worker.rank == 1 else worker)
        elif any(worker.exit_code is not None for worker in workers):
            pass
        elif self.desired.mode is Mode.SAVE or workers[0].step == 10:
            outcome = Outcome.STOPPED if self.desired.mode is Mode.SAVE else Outcome.FINISHED
            self._change(lambda worker: replace(worker, ended=Ended(outcome=outcome, step=worker.step)))
        else:
            self._change(lambda worker: replace(worker, step=worker.step + 1, phase=Phase.TRAINING))

    def _change(self, change, is_empty: bool = False) -> None:
        self.reports = {
            node: replace(report, workers=tuple(map(change, report.workers)), is_empty=is_empty) for node, report in self.reports.items()
        }

    def step(self) -> int:
        return max((report.workers[0].step for report in self.reports.values()), default=0)

    def step_down(self) -> None:
        self.has_stepped_down = True

    def close(self) -> None:
        self.is_closed = True


def build(store: MemoryStore, cluster: FakeCluster, writer: str = "me", slept: list[float] | None = None) -> Controller:
    if not read_journal(store, KINDS):
        open_history(store, "submitter").append(submitted())
    return Controller(
        run="r",
        history=open_history(store, writer),
        cluster=cluster,
        wall_clock=lambda: 1000.0 + cluster.now_s,
        clock=lambda: cluster.now_s,
        sleep=(slept if slept is not None else []).append,
    )


def modes(cluster: FakeCluster) -> list[tuple[int, Mode]]:
    """What was asked for, one after the other."""
    asked = [(one.attempt, one.mode) for one in cluster.asked if one.attempt]
    return [one for index, one in enumerate(asked) if not index or asked[index - 1] != one]


def kinds(store: MemoryStore) -> list[str]:
    return [type(entry.event).__name__ for entry in read_journal(store, KINDS)]


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
    assert [one.machine for one in state.placement] == ["m0", "m2"], "m1 was under suspicion"
    assert modes(cluster) == [(1, Mode.RUN), (1, Mode.KILL), (2, Mode.RUN), (2, Mode.KILL)]


def test_nothing_is_asked_of_the_cluster_before_it_is_in_the_journal():
    cluster = FakeCluster(store := MemoryStore())
    build(store, cluster).run()
    first_run = next(index for index, one in enumerate(cluster.asked) if one.mode is Mode.RUN)
    assert kinds(store)[cluster.entries_before[first_run] - 1] == "AttemptStarted"
    assert [kinds(store)[number - 1] for number in cluster.entries_before[-2:]] == ["WorkersEnded", "WorkersGone"]


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
    build(store, cluster, "old")._open()
    new = build(store, cluster, "new")
    stop_without_cluster(open_history(store), 9.0)
    with pytest.raises(Superseded):
        new.run()
    _, (epoch, taken_over) = cluster.attached
    assert (epoch, taken_over.held, cluster.is_closed) == (1, (), True), "agents obey the epoch of the controller that spoke to them last"


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


def test_what_ended_the_run_is_held_against_its_machine():
    cluster = FakeCluster(store := MemoryStore())
    open_history(store, "submitter").append(submitted(replace(TERMS, recovery=replace(TERMS.recovery, max_restarts=0))))
    cluster.exits.append(-9)
    assert build(store, cluster).run().label == "failed"
    assert [(one.machine, one.cause, one.strikes) for one in cluster.desired.findings] == [("m1", "killed", 1)]


def test_a_controller_that_is_replaced_leaves_the_workers_to_the_other():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster, "old")
    taken_over_at_step_10(store, cluster, ControllerStarted(at_s=5.0, epoch=2))
    with pytest.raises(Superseded):
        controller.run()
    assert (cluster.is_closed, cluster.has_stepped_down) == (False, True)


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

    def away(operation: str, key: str) -> None:
        if outages and operation == "create":
            raise outages.popleft()

    store.fault = away
    assert controller.run().label == "finished"
    assert slept == [JOURNAL_RETRY_S] * 3
    assert caplog.text.count("the journal can't be reached, trying again: no answer") == 3


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
