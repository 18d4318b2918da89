"""From what a cluster shows to the events that it means for a run. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.control import events
from orchestrator.control.causes import Cause, classify
from orchestrator.control.cluster import Observation, WorkerOnNode, last_step
from orchestrator.control.events import Event, WorkerFailed
from orchestrator.control.stalls import find_stalled
from orchestrator.control.state import RunState, Stage
from orchestrator.control.transition import ACTIVE, placement_for
from orchestrator.messages import WorkerReport

SPEAKS_OF_A_CONSEQUENCE = (Cause.PEER_LOST,)


def events_of(state: RunState, seen: Observation) -> Iterator[Event]:
    """The events that lead from `state` to what was seen; none when nothing happened.

    All follow from `state` as it is given: what an event changes shows in what the next look makes of it.
    """
    ours = seen.attempt == state.attempt and state.terms is not None
    workers = seen.workers_of(state.attempt) if ours else []
    if state.stage in ACTIVE and ours:  # before the nodes: a run that is done does not need them any more
        yield from _progress(state, workers, seen.at_s)
        yield from _ended(state, workers, seen.at_s)
    yield from _nodes(state, seen)
    if ours:
        if state.stage in (*ACTIVE, Stage.DRAINING):
            yield from _failures(state, workers, seen)
        if state.stage in ACTIVE:
            yield from _stalls(state, workers, seen.at_s)
        if state.stage is Stage.DRAINING and seen.gone:
            yield events.WorkersGone(at_s=seen.at_s, attempt=state.attempt)
    yield from _timers(state, seen.at_s)


def _nodes(state: RunState, seen: Observation) -> Iterator[Event]:
    alive = {node.node: node for node in seen.nodes}
    joined = tuple(node for name, node in sorted(alive.items()) if state.nodes.get(name) != node)
    lost = tuple(sorted(set(state.nodes) - set(alive)))
    if joined or lost:
        workers = seen.workers_of(state.attempt)
        silent_s = min((one.worker.silent_s for one in workers if one.node in lost), default=0.0)
        at_step = max(last_step(workers), state.committed_step)
        yield events.NodesChanged(at_s=seen.at_s, joined=joined, lost=lost, at_step=at_step, silent_s=silent_s)


def _progress(state: RunState, workers: list[WorkerOnNode], at_s: float) -> Iterator[Event]:
    for worker in (one.worker for one in workers):
        if worker.resumed is not None and state.resumed_from is None:
            yield events.TrainingResumed(at_s=at_s, attempt=state.attempt, from_step=worker.resumed.step, rejected=worker.resumed.rejected)
        if worker.resumed is not None and worker.step > worker.resumed.step and state.stage is Stage.STARTING:
            yield events.StepReached(at_s=at_s, attempt=state.attempt, step=worker.step)
        if worker.committed_step is not None and worker.committed_step > state.committed_step:
            yield events.CheckpointCommitted(at_s=at_s, attempt=state.attempt, step=worker.committed_step)


def _ended(state: RunState, workers: list[WorkerOnNode], at_s: float) -> Iterator[Event]:
    assert state.terms is not None
    ended = [one.worker.ended for one in workers if one.worker.ended is not None]
    if len(ended) == state.terms.world_size and len({end.outcome for end in ended}) == 1:
        yield events.WorkersEnded(
            at_s=at_s,
            attempt=state.attempt,
            outcome=ended[0].outcome,
            step=max(end.step for end in ended),
            num_skipped=max(one.worker.num_skipped for one in workers),
        )


def _failures(state: RunState, workers: list[WorkerOnNode], seen: Observation) -> Iterator[Event]:
    """Failed workers, root causes before their consequences."""
    assert state.terms is not None
    failures = []
    for one in workers:
        if failed_by_itself(one.worker):
            cause, detail = classify(one.worker.exit_code, one.worker.failed)
            failures.append(_failure(state, one, cause, detail, workers, seen.at_s))
    alive = {node.node for node in seen.nodes}
    for node in seen.lost_agents:
        if node in alive and node in state.placement and state.stage is not Stage.DRAINING:
            rank = state.placement.index(node) * state.terms.workers_per_node
            silent_s = min((one.worker.silent_s for one in workers if one.node == node), default=0.0)
            failures.append(
                WorkerFailed(
                    at_s=seen.at_s,
                    attempt=state.attempt,
                    rank=rank,
                    node=node,
                    cause=Cause.AGENT_LOST,
                    detail="the node's agent ended",
                    at_step=last_step(workers),
                    silent_s=silent_s,
                )
            )
    yield from sorted(failures, key=lambda failure: failure.cause in SPEAKS_OF_A_CONSEQUENCE)


def failed_by_itself(worker: WorkerReport) -> bool:
    """It reported an error, or ended early and not by its agent's hand."""
    return worker.failed is not None or (worker.exit_code is not None and worker.ended is None and not worker.killed_by_agent)


def _failure(state: RunState, one: WorkerOnNode, cause: Cause, detail: str, workers: list[WorkerOnNode], at_s: float) -> WorkerFailed:
    return WorkerFailed(
        at_s=at_s,
        attempt=state.attempt,
        rank=one.worker.rank,
        node=one.node,
        cause=cause,
        detail=detail,
        at_step=last_step(workers),
        silent_s=one.worker.silent_s,
    )


def _stalls(state: RunState, workers: list[WorkerOnNode], at_s: float) -> Iterator[Event]:
    assert state.terms is not None
    culprit = find_stalled(workers, state.terms.recovery)
    if culprit is not None:
        one, cause, detail = culprit
        yield _failure(state, one, cause, detail, workers, at_s)


def _timers(state: RunState, at_s: float) -> Iterator[Event]:
    if state.stage is Stage.WAITING and state.terms is not None and at_s >= state.not_before_s and placement_for(state):
        yield events.BackoffElapsed(at_s=at_s)
    if state.stage is Stage.SAVING and state.stop_by_s is not None and at_s >= state.stop_by_s:
        yield events.StopRequested(at_s=at_s, now=True)
