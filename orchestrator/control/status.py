"""What `braid status` shows, from the state and what was last seen of the workers. Pure."""

from __future__ import annotations

from typing import Any

from model.train.metrics import in_status
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.control.cluster import Observation, WorkerOnNode, last_step
from orchestrator.control.state import Incident, RunState
from orchestrator.records.ledger import StepRecord


def build_status(
    run: str, config: RunConfig, state: RunState, seen: Observation | None, now_s: float, recorded: StepRecord | None = None
) -> dict[str, Any]:
    """JSON-ready. `seen` is None when the cluster is gone; `now_s` in seconds since the epoch.

    `recorded` is the last record of the step ledger: what is known of progress when no worker can be asked.
    """
    workers = seen.workers_of(state.attempt) if seen is not None else []
    lead = next((one.worker for one in workers if one.worker.metrics is not None), None)
    step = max(last_step(workers), state.resumed_from or 0, state.committed_step, recorded.step if recorded and not workers else 0)
    return {
        "run": run,
        "state": state.label,
        "reason": state.reason,
        "attempt": state.attempt,
        "step": step,
        "num_steps": config.train.num_steps,
        "tokens": step * config.tokens_per_step,
        **in_status(lead.metrics if lead else recorded),
        "tokens_per_s": lead.tokens_per_s if lead else None,
        "skipped_updates": max(one.worker.num_skipped for one in workers) if workers else None,
        "last_committed_step": state.committed_step,
        "restarts": state.restarts,
        "live": seen is not None,
        "seen_s_ago": round(max(0.0, now_s - seen.at_s), 3) if seen is not None else None,
        "nodes": sorted(state.nodes),
        "strikes": dict(sorted(state.strikes.items())),
        "rejected_checkpoints": list(state.rejected),
        "workers": [_worker(one) for one in workers],
        "incidents": [_incident(incident) for incident in state.incidents],
    }


def _worker(one: WorkerOnNode) -> dict[str, Any]:
    worker = one.worker
    return {
        "rank": worker.rank,
        "node": one.node,
        "pid": worker.pid,
        "phase": worker.phase.value,
        "step": worker.step,
        "last_progress_s": round(worker.last_progress_s, 3),
        "silent_s": round(worker.silent_s, 3),
    }


def _incident(incident: Incident) -> dict[str, Any]:
    plain: dict[str, Any] = codec.to_plain(incident)
    return plain
