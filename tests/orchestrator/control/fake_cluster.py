"""A cluster that is at once what it is desired to be, and a controller on it."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.controller import Controller
from orchestrator.control.desired import Desired
from orchestrator.control.history import KINDS, open_history
from orchestrator.control.placement import Node
from orchestrator.control.summary import summarise
from orchestrator.messages import AgentReport, Ended, Mode, Outcome, Phase, Resumed, WorkerReport
from orchestrator.records.journal import read_journal
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import submitted


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
