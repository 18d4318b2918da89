"""The seam between decisions and the world: what a cluster shows, and what it can be asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.control.actions import Action
from orchestrator.control.placement import Node
from orchestrator.messages import AgentReport, WorkerReport


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOnNode:
    """What is known of a worker, and the node that it is on."""

    node: str
    worker: WorkerReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """The cluster at one moment, as levels: repeating it changes nothing, so a controller may come and go."""

    at_s: float
    """Seconds since the epoch."""
    nodes: tuple[Node, ...]
    """Every node that is alive and could take workers."""
    attempt: int
    """Attempt that `reports`, `lost_agents` and `gone` speak of."""
    reports: tuple[AgentReport, ...] = ()
    """Newest report of each agent of the attempt, lost ones included."""
    lost_agents: tuple[str, ...] = ()
    """Nodes of the attempt whose agent does not exist (any more)."""
    gone: bool = False
    """No agent, and so no worker, of the attempt is left."""

    def workers_of(self, attempt: int) -> list[WorkerOnNode]:
        """Every worker of the attempt that is known, by rank."""
        reports = [report for report in self.reports if report.attempt == attempt]
        found = [WorkerOnNode(node=report.node, worker=worker) for report in reports for worker in report.workers]
        return sorted(found, key=lambda one: one.worker.rank)


def last_step(workers: Sequence[WorkerOnNode]) -> int:
    """The highest step that any worker finished: what a failure now would lose at most."""
    return max((one.worker.step for one in workers), default=0)


class Cluster(Protocol):
    """Implemented with Ray, by a fake in tests, and by simulators."""

    def attach(self, *, epoch: int, attempt: int, nodes: tuple[str, ...]) -> None:
        """Called once, first: the controller of incarnation `epoch` takes over `attempt`, which may run on `nodes` (0: none ever did)."""

    def poll(self, *, timeout_s: float) -> Observation:
        """Blocks up to `timeout_s` for news."""

    def execute(self, action: Action) -> None:
        """Begins the action and returns; its outcome shows in `poll`. Executing twice is executing once."""

    def close(self) -> None:
        """Leaves no process of the run behind."""
