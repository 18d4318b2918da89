"""The loop, with a fake cluster and a store in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.control.actions import Action, StartWorkers, StopWorkers
from orchestrator.control.cluster import Observation
from orchestrator.control.controller import Controller
from orchestrator.control.events import EVENT_KINDS, ControllerStarted, StopRequested, WorkersGone
from orchestrator.control.placement import Node
from orchestrator.errors import Superseded
from orchestrator.messages import AgentReport, Ended, Outcome, Phase, Resumed, WorkerReport
from orchestrator.records.journal import open_journal, read_journal
from tests.fakes.memory_store import MemoryStore, no_fault
from tests.orchestrator.control.stories import submitted


class FakeCluster:
    """Two nodes; workers do at once what they are asked. `faults` hold one observation-changing exit code each, by attempt."""

    def __init__(self, store: MemoryStore, num_nodes: int = 2) -> None:
        self.store = store
        self.nodes = tuple(Node(node=f"node{n}", slots=1) for n in range(num_nodes))
        self.attempt = 0
        self.alive = False
        self.workers: list[WorkerReport] = []
        self.exits: deque[int] = deque()
        self.executed: list[Action] = []
        self.entries_before: list[int] = []
        self.attached: tuple[int, int] = (0, 0)
        self.closed = False
        self.now_s = 0.0

    def attach(self, *, epoch: int, attempt: int, nodes: tuple[str, ...]) -> None:
        self.attached = (epoch, attempt)

    def poll(self, *, timeout_s: float) -> Observation:
        self.now_s += timeout_s
        self._work()
        reports = tuple(AgentReport(attempt=self.attempt, node=f"node{w.rank}", workers=(w,)) for w in self.workers)
        return Observation(at_s=self.now_s, nodes=self.nodes, attempt=self.attempt, reports=reports, gone=not self.alive)

    def _work(self) -> None:
        if not self.alive:
            return
        if self.workers[0].step == 5 and self.exits:
            self.workers[1] = replace(self.workers[1], exit_code=self.exits.popleft())
        elif self.workers[1].exit_code is None and self.workers[0].step < 10:
            self.workers = [replace(w, step=w.step + 1, phase=Phase.TRAINING) for w in self.workers]
        elif self.workers[0].step == 10:
            self.workers = [replace(w, ended=Ended(outcome=Outcome.FINISHED, step=10)) for w in self.workers]

    def execute(self, action: Action) -> None:
        self.executed.append(action)
        self.entries_before.append(len(read_journal(self.store, EVENT_KINDS)))
        if isinstance(action, StartWorkers):
            self.attempt, self.alive = action.attempt, True
            self.workers = [WorkerReport(rank=rank, pid=rank, resumed=Resumed(step=0)) for rank in range(2)]
        elif isinstance(action, StopWorkers):
            self.alive = False
            self.workers = [replace(w, exit_code=-9, killed_by_agent=True) for w in self.workers]

    def close(self) -> None:
        self.closed = True


def no_wait(seconds: float) -> None:
    """Time is the fake cluster's."""


def build(store: MemoryStore, cluster: FakeCluster, writer: str = "me") -> Controller:
    if not read_journal(store, EVENT_KINDS):
        open_journal(store, EVENT_KINDS, writer="submitter").append(submitted())
    return Controller(journal=open_journal(store, EVENT_KINDS, writer=writer), cluster=cluster, clock=lambda: cluster.now_s, sleep=no_wait)


def test_a_run_is_carried_to_its_end_and_nothing_is_left_behind():
    cluster = FakeCluster(store := MemoryStore())
    state = build(store, cluster).run()
    assert state.label == "finished"
    assert cluster.closed
    assert [type(action).__name__ for action in cluster.executed] == ["StartWorkers", "StopWorkers"]


def test_a_killed_worker_costs_an_attempt_not_the_run():
    cluster = FakeCluster(store := MemoryStore())
    cluster.exits.append(-9)
    state = build(store, cluster).run()
    (incident,) = state.incidents
    assert (state.label, state.attempt, incident.at_step, incident.steps_replayed) == ("finished", 2, 5, 5)


def test_every_action_comes_after_the_entry_that_caused_it():
    cluster = FakeCluster(store := MemoryStore())
    build(store, cluster).run()
    kinds = [type(entry.event).__name__ for entry in read_journal(store, EVENT_KINDS)]
    assert kinds[cluster.entries_before[0] - 1] == "NodesChanged"
    assert kinds[cluster.entries_before[1] - 1] == "WorkersEnded"


def test_a_new_controller_finds_the_workers_running_in_the_same_attempt():
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    for _ in range(4):
        old._tick()
    new = build(store, cluster, "new")
    state = new.run()
    assert (state.label, state.attempt, state.epoch) == ("finished", 1, 2)
    assert cluster.attached == (2, 1)
    assert sum(isinstance(action, StartWorkers) for action in cluster.executed) == 1


def test_the_old_controller_steps_down_and_touches_nothing_more():
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")
    old._open()
    old._tick()
    build(store, cluster, "new")._open()
    executed = list(cluster.executed)
    old.request(StopRequested(at_s=1.0, now=True))
    with pytest.raises(Superseded):
        old._tick()
    assert cluster.executed == executed


def test_a_controller_whose_run_was_ended_from_elsewhere_ends_its_workers():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster, "here")

    def stop_from_elsewhere(operation: str, key: str) -> None:
        if cluster.workers and cluster.workers[0].step == 10:
            store.fault = no_fault
            elsewhere = open_journal(store, EVENT_KINDS, writer="elsewhere")
            elsewhere.append(StopRequested(at_s=5.0, now=True))
            elsewhere.append(WorkersGone(at_s=5.0, attempt=1))

    store.fault = stop_from_elsewhere
    with pytest.raises(Superseded):
        controller.run()
    assert cluster.closed


def test_a_controller_that_is_replaced_leaves_the_workers_alone():
    cluster = FakeCluster(store := MemoryStore())
    old = build(store, cluster, "old")

    def take_over(operation: str, key: str) -> None:
        if cluster.workers and cluster.workers[0].step == 10:
            store.fault = no_fault
            open_journal(store, EVENT_KINDS, writer="new").append(ControllerStarted(at_s=5.0, epoch=2))

    store.fault = take_over
    with pytest.raises(Superseded):
        old.run()
    assert not cluster.closed


def test_a_stop_that_is_asked_for_is_done():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster)
    controller.request(StopRequested(at_s=1.0, now=True))
    assert controller.run().label == "stopped"


def test_while_the_store_is_away_nothing_is_done_and_then_everything():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster)
    outages = deque([StoreUnavailable("no answer")] * 3)

    def away(operation: str, key: str) -> None:
        if outages and operation == "create":
            raise outages.popleft()

    store.fault = away
    assert controller.run().label == "finished"
    assert not outages
