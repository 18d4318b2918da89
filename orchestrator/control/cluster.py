"""The seam between decisions and the world: what a cluster shows, and what it can be asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.control.placement import Node
from orchestrator.control.state import Action
from orchestrator.messages import AgentReport


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
