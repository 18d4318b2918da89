"""Who is to blame when training stands still, and how long each worker may take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config import RecoveryConfig
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import AgentSeen
from orchestrator.control.summary import standing_of
from orchestrator.messages import Phase, WorkerReport, grown_older


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """Training stands still."""

    cause: Cause
    agent: AgentSeen | None
    """The node to blame; None where none is behind the others."""
    worker: WorkerReport
    """The rank to blame, or any where there is none."""
    detail: str


def find_stalled(agents: Sequence[AgentSeen], limits: RecoveryConfig) -> Stall | None:
    """Why training stands still, and because of whom; None when all is well.

    One frozen rank stops every rank within a step, so being without progress says little. A rank that also fell silent is the culprit;
    where all still beat, it is the one furthest behind. Where no node is behind the others, nothing says whose fault it is.
    """
    silent = [(agent, worker) for agent in agents for worker in _silent(agent, limits)]
    if silent:
        agent, worker = max(silent, key=lambda one: one[1].silent_s)
        told = f"no sign of life for {worker.silent_s:.1f} s in {_where(worker)}{', stopped (SIGSTOP)' if worker.is_stopped else ''}"
        return Stall(cause=Cause.FROZEN, agent=agent, worker=worker, detail=told)
    behind = [(agent, agent.summary.behind) for agent in agents if agent.summary is not None and agent.summary.behind is not None]
    if not any(worker.last_progress_s + agent.age_s > pause_allowed_s(worker, limits) for agent, worker in behind):
        return None
    behind = [(agent, grown_older(worker, agent.age_s)) for agent, worker in behind]
    agent, worker = min(behind, key=lambda one: (*standing_of(one[1]), -one[1].last_progress_s))
    detail = f"no progress for {worker.last_progress_s:.1f} s in {_where(worker)}"
    is_level = all(agent.summary.is_level for agent, _ in behind if agent.summary) and len({standing_of(one) for _, one in behind}) == 1
    if is_level and len(behind) > 1:
        return Stall(cause=Cause.HUNG, agent=None, worker=worker, detail=f"{detail}; every rank stands there")
    return Stall(cause=Cause.HUNG, agent=agent, worker=worker, detail=detail)


def _silent(agent: AgentSeen, limits: RecoveryConfig) -> list[WorkerReport]:
    one = agent.summary.silent if agent.summary is not None else None
    if one is None or one.silent_s + agent.age_s <= silence_allowed_s(one, limits):
        return []
    return [grown_older(one, agent.age_s)]


def silence_allowed_s(worker: WorkerReport, limits: RecoveryConfig) -> float:
    """How long the worker may send nothing. While it imports, a process may hold Python's lock for long; a stopped one sends no more."""
    if worker.is_stopped:
        return limits.stopped_timeout_s
    return limits.start_timeout_s if worker.phase is Phase.STARTING else limits.heartbeat_timeout_s


def pause_allowed_s(worker: WorkerReport, limits: RecoveryConfig) -> float:
    """How long the worker may get nowhere: be at the same step of the same phase, and at the same batch of held-out text."""
    match worker.phase:
        case Phase.STARTING | Phase.LOADING | Phase.WARMING:
            return limits.start_timeout_s
        case Phase.SAVING:
            return limits.stop_timeout_s
    return limits.progress_timeout_s


def _where(worker: WorkerReport) -> str:
    return f"phase {worker.phase.value} after step {worker.step}"
