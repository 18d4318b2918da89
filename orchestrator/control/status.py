"""What `braid status` shows, from the state and what was last seen of the workers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from model.train.metrics import in_status
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.control.cluster import AgentSeen, Observation, WorkerOnNode, last_step, leader_of, workers_on
from orchestrator.control.observe import next_placement, shortage
from orchestrator.control.placement import GOOD_STANDING
from orchestrator.control.state import Incident, RunState, Stage
from orchestrator.control.summary import sum_of
from orchestrator.records.ledger import StepRecord

WORKERS_ON_A_PAGE = 64
INCIDENTS_SHOWN = 50


def build_status(
    run: str,
    config: RunConfig,
    state: RunState,
    seen: Observation | None,
    now_s: float,
    recorded: StepRecord | None = None,
    *,
    in_stage_s: float = 0.0,
    alerts: Iterable[str] = (),
    page: int = 1,
) -> dict[str, Any]:
    """JSON-ready, of a size that does not grow with the run. `seen` is None when the cluster is gone; `now_s` in seconds since the epoch.

    `recorded` is the last record of the step ledger: what is known of progress when no worker can be asked. `alerts`: see
    `health.conditions`. Workers come by pages, the first being 1.
    """
    agents = seen.agents_of(state.attempt) if seen is not None else []
    lead = leader_of(agents)
    step = max(last_step(agents), state.resumed_from or 0, state.committed_step, recorded.step if recorded and not agents else 0)
    return {
        "run": run,
        "state": state.label,
        "reason": _reason(state, seen, in_stage_s),
        "alerts": list(alerts),
        "attempt": state.attempt,
        "step": step,
        "num_steps": config.train.num_steps,
        "tokens": config.tokens_until(step),
        **in_status(lead.metrics if lead else recorded),
        "tokens_per_s": lead.tokens_per_s if lead else None,
        "skipped_updates": max((agent.summary.num_skipped for agent in agents if agent.summary is not None), default=None),
        "data": codec.to_plain(sum_of([agent.summary.data for agent in agents if agent.summary is not None])) if lead else None,
        **_checkpoints(state),
        **_seen(seen, now_s),
        **_machines(state, seen),
        **_workers(state, agents, page),
        **_incidents(state),
    }


def _reason(state: RunState, seen: Observation | None, in_stage_s: float) -> str:
    """While the run waits for nodes, what is missing at this moment; nothing is said of nodes that nobody has looked at since."""
    if state.stage is not Stage.WAITING or not state.wants_nodes:
        return state.reason
    if seen is None:
        return "waiting for nodes"
    return shortage(state, seen) if in_stage_s >= state.wait_s and not next_placement(state, seen) else state.reason


def _seen(seen: Observation | None, now_s: float) -> dict[str, Any]:
    return {"live": seen is not None, "seen_s_ago": round(max(0.0, now_s - seen.at_s), 3) if seen is not None else None}


def _checkpoints(state: RunState) -> dict[str, Any]:
    return {"last_committed_step": state.committed_step, "rejected_checkpoints": list(state.rejected)}


def _machines(state: RunState, seen: Observation | None) -> dict[str, Any]:
    """The machines of the run and those that it could have, and what is held against any of them."""
    ours = {placed.machine for placed in state.placement}
    there = {node.machine for node in seen.nodes} if seen is not None else set()
    standings = seen.standings if seen is not None else {}
    known = {machine: standings.get(machine, GOOD_STANDING) for machine in sorted(ours | there)}
    return {
        "nodes": [placed.machine for placed in state.placement],
        "spares": len(there - ours) if seen is not None else None,
        "standbys": sum(agent.report.standbys for agent in seen.agents if agent.report is not None) if seen is not None else None,
        "strikes": {machine: standing.strikes for machine, standing in known.items() if standing.strikes},
        "cordoned": {machine: standing.cordoned for machine, standing in known.items() if standing.cordoned},
    }


def _workers(state: RunState, agents: list[AgentSeen], page: int) -> dict[str, Any]:
    """Those of a page, and the hardware below them, as far as it was told."""
    workers = _on_page(agents, page)
    reports = {agent.node: agent.report for agent in agents if agent.report is not None}
    told = ((node, levels) for node in dict.fromkeys(one.node for one in workers) if (levels := reports[node].levels) is not None)
    return {
        "num_workers": sum(agent.summary.num_workers for agent in agents if agent.summary is not None),
        "workers": [_worker(one) for one in workers],
        "hosts": [
            {"node": node, "machine": state.machine_of(node), **codec.to_plain(levels)} for node, levels in told if levels is not None
        ],
    }


def _incidents(state: RunState) -> dict[str, Any]:
    return {
        "restarts": state.restarts,
        "num_incidents": len(state.incidents),
        "incidents": [_incident(incident) for incident in state.incidents[-INCIDENTS_SHOWN:]],
    }


def _incident(incident: Incident) -> dict[str, Any]:
    """With what a journal leaves out: where it went on from, and which machines were left."""
    return {**codec.to_plain(incident), "source": incident.source.value, "left": list(incident.left)}


def _on_page(agents: list[AgentSeen], page: int) -> list[WorkerOnNode]:
    """The ranks of a page; only their agents' reports are looked into."""
    ranks = range((page - 1) * WORKERS_ON_A_PAGE, page * WORKERS_ON_A_PAGE)

    def has_some(agent: AgentSeen) -> bool:
        summary = agent.summary
        return summary is not None and summary.leader.rank < ranks.stop and summary.leader.rank + summary.num_workers > ranks.start

    return [one for one in workers_on(filter(has_some, agents)) if one.worker.rank in ranks]


def ranks_of(state: RunState, seen: Observation | None) -> list[dict[str, Any]]:
    """Every rank of the attempt by node, in the order of ranks, as small as can be: a page draws them all.

    A node is `{"node", "machine", "hottest_c", "ranks": [[rank, phase, step, last_progress_s], …]}`, without ranks where its agent has said
    nothing; `hottest_c` is the temperature of its hottest GPU, None where none is told.
    """
    said = {agent.node: agent for agent in seen.agents_of(state.attempt)} if seen is not None else {}
    return [{"node": placed.node, "machine": placed.machine, **_compact(said.get(placed.node))} for placed in state.placement]


def _compact(agent: AgentSeen | None) -> dict[str, Any]:
    report = agent.report if agent is not None else None
    if agent is None or report is None:
        return {"hottest_c": None, "ranks": []}
    told = [gpu.temperature_c for gpu in report.levels.gpus if gpu.temperature_c is not None] if report.levels is not None else []
    ranks = [[one.rank, one.phase.value, one.step, round(one.last_progress_s + agent.age_s, 1)] for one in report.workers]
    return {"hottest_c": max(told, default=None), "ranks": ranks}


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
