"""The seam between decisions and the world: what a cluster shows, and what it is asked to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from orchestrator.control.desired import Desired
from orchestrator.control.placement import Node
from orchestrator.control.summary import Summary
from orchestrator.messages import AgentReport, WorkerReport, grown_older
from orchestrator.records.nodes import Standing


class AgentSeen(NamedTuple):
    """One agent of the run as the controller's end of it knows it. Made of every agent at every look, so it is of the cheapest kind."""

    node: str
    report: AgentReport | None = None
    """Its newest report; None before its first word."""
    summary: Summary | None = None
    """What `report` comes to, made once when it arrived."""
    age_s: float = 0.0
    """Time since that report arrived in which the controller was watching, until it gave the agent up. 0 for one that is on its way out."""
    is_lost: bool = False
    """The agent does not exist (any more), or never said a word in time."""
    is_given_up: bool = False
    """It was told to kill its workers and has not confirmed it in time: they count as gone, since all that they write is fenced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """The cluster at one moment, as levels: repeating it changes nothing, so a controller may come and go."""

    at_s: float
    """Seconds since the epoch."""
    nodes: tuple[Node, ...]
    """Every node that is alive and could take workers."""
    agents: tuple[AgentSeen, ...] = ()
    """Every agent of the run that is known, one for each node."""
    standings: Mapping[str, Standing] = field(default_factory=dict)
    """By machine, what all runs and people have recorded of it; a machine without an entry is in good standing."""

    def agents_of(self, attempt: int) -> list[AgentSeen]:
        """The agents whose newest report speaks of the attempt."""
        return [agent for agent in self.agents if agent.report is not None and agent.report.attempt == attempt]

    def workers_of(self, attempt: int) -> list[WorkerOnNode]:
        """Every worker of the attempt that is known, by rank, its ages as of now. For people: it costs a look at every worker."""
        return workers_on(self.agents_of(attempt))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOnNode:
    """What is known of a worker, and the node that it is on."""

    node: str
    worker: WorkerReport


def workers_on(agents: Iterable[AgentSeen]) -> list[WorkerOnNode]:
    """The workers of these agents, by rank, their ages as of now."""
    found = [
        WorkerOnNode(node=agent.node, worker=grown_older(worker, agent.age_s))
        for agent in agents
        if agent.report is not None
        for worker in agent.report.workers
    ]
    return sorted(found, key=lambda one: one.worker.rank)


def last_step(agents: Sequence[AgentSeen]) -> int:
    """The highest step that any worker finished: what a failure now would lose at most."""
    return max((agent.summary.last_step for agent in agents if agent.summary is not None), default=0)


def leader_of(agents: Iterable[AgentSeen]) -> WorkerReport | None:
    """Any worker that has finished a step in this attempt: all have the same numbers."""
    return next((agent.summary.leader for agent in agents if agent.summary is not None and agent.summary.leader.metrics is not None), None)


class Cluster(Protocol):
    """Implemented over agents (`orchestrator/fleet`), which run on Ray or in a simulation, and by a fake in tests."""

    def attach(self, *, epoch: int, desired: Desired) -> None:
        """Called once, first: the controller of incarnation `epoch` takes over what an earlier one may have begun."""

    def reconcile(self, desired: Desired) -> None:
        """Begins what is missing to make the cluster look as desired, and returns; called before every `poll`, mostly with the same."""

    def poll(self, *, timeout_s: float) -> Observation:
        """Blocks up to `timeout_s` for news. Raises Superseded when the agents obey a newer controller."""

    def step_down(self) -> None:
        """Another controller has the run. Agents that it does not speak to within `recovery.orphan_timeout_s` end, with their workers."""

    def close(self) -> None:
        """Leaves no process of the run behind."""
