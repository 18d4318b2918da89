"""Who is to blame when training stands still, and how long each worker may take. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config import RecoveryConfig
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import WorkerOnNode
from orchestrator.messages import Phase, WorkerReport


def find_stalled(workers: Sequence[WorkerOnNode], limits: RecoveryConfig) -> tuple[WorkerOnNode, Cause, str] | None:
    """The worker to blame for a standstill, and why; None when all is well.

    One frozen rank stops every rank within a step, so being without progress says little. A rank that also fell silent is the culprit;
    where all still beat, it is the one furthest behind.
    """
    running = [one for one in workers if one.worker.exit_code is None and one.worker.ended is None]
    silent = [one for one in running if one.worker.silent_s > silence_allowed_s(one.worker, limits)]
    if silent:
        one = max(silent, key=lambda one: one.worker.silent_s)
        return one, Cause.FROZEN, f"no sign of life for {one.worker.silent_s:.1f} s in {_where(one.worker)}"
    stuck = [one for one in running if one.worker.last_progress_s > pause_allowed_s(one.worker, limits)]
    if not stuck:
        return None
    order = list(Phase)
    one = min(stuck, key=lambda one: (order.index(one.worker.phase), one.worker.step, -one.worker.last_progress_s))
    return one, Cause.HUNG, f"no progress for {one.worker.last_progress_s:.1f} s in {_where(one.worker)}"


def silence_allowed_s(worker: WorkerReport, limits: RecoveryConfig) -> float:
    """How long the worker may send nothing. While it imports, a process may hold Python's lock for long."""
    return limits.start_timeout_s if worker.phase is Phase.STARTING else limits.heartbeat_timeout_s


def pause_allowed_s(worker: WorkerReport, limits: RecoveryConfig) -> float:
    """How long the worker may stay at the same step of the same phase."""
    match worker.phase:
        case Phase.STARTING | Phase.LOADING | Phase.WARMING:
            return limits.start_timeout_s
        case Phase.SAVING:
            return limits.stop_timeout_s
    return limits.progress_timeout_s


def _where(worker: WorkerReport) -> str:
    return f"phase {worker.phase.value} after step {worker.step}"
