"""transition(state, event) → (state, actions): every decision about a run, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from orchestrator.control import events
from orchestrator.control.actions import Action, SaveAndStop, StartWorkers, StopWorkers
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.control.incidents import close_incidents, explain, incident_of, times_in_row
from orchestrator.control.placement import place
from orchestrator.control.state import Ending, RunState, Stage, Terms
from orchestrator.control.verdicts import VERDICTS, backoff_s
from orchestrator.messages import Outcome

Result = tuple[RunState, tuple[Action, ...]]
ACTIVE = (Stage.STARTING, Stage.RUNNING, Stage.SAVING)


def transition(state: RunState, event: Event) -> Result:
    """The run after `event`, and what to do now. An event that changes nothing returns the same state; so do events of other attempts."""
    attempt = getattr(event, "attempt", state.attempt)
    if attempt != state.attempt:
        return state, ()
    return _HANDLERS[type(event)](state, event)


def fold(history: Iterable[Event]) -> RunState:
    """The state that a journal leaves behind."""
    state = RunState()
    for event in history:
        state, _ = transition(state, event)
    return state


# --- a run begins and ends ---------------------------------------------------------------------------------------------


def _submitted(state: RunState, event: events.RunSubmitted) -> Result:
    return _advance(replace(state, terms=event.terms), event.at_s)


def _resume_requested(state: RunState, event: events.ResumeRequested) -> Result:
    if state.stage is not Stage.ENDED:
        return state, ()
    fresh = replace(
        state,
        stage=Stage.WAITING,
        terms=event.terms,
        ending=None,
        reason="",
        restarts_in_row=0,
        not_before_s=0.0,
        stop_by_s=None,
        nodes={},
        strikes={},
        barred=(),
        resumed_after_attempt=state.attempt,
    )
    return fresh, ()


def _controller_started(state: RunState, event: events.ControllerStarted) -> Result:
    """A new controller repeats what the old one may have left undone."""
    taken_over = replace(state, epoch=event.epoch)
    if state.stage is Stage.DRAINING:
        return taken_over, (StopWorkers(attempt=state.attempt),)
    if state.stage is Stage.SAVING:
        return taken_over, (SaveAndStop(attempt=state.attempt),)
    return taken_over, ()


def _stop_requested(state: RunState, event: events.StopRequested) -> Result:
    if state.stage is Stage.ENDED or state.terms is None:
        return state, ()
    if state.stage is Stage.WAITING:
        return replace(state, stage=Stage.ENDED, ending=Ending.STOPPED, reason="stopped on request"), ()
    if state.stage is Stage.DRAINING:
        return replace(state, ending=state.ending or Ending.STOPPED, reason=state.reason or "stopped on request"), ()
    if event.now or state.stage is Stage.STARTING:
        return _drain(replace(state, ending=Ending.STOPPED, reason="stopped on request, without a new checkpoint"))
    if state.stage is Stage.SAVING:
        return state, ()
    saving = replace(state, stage=Stage.SAVING, stop_by_s=event.at_s + state.terms.recovery.stop_timeout_s)
    return saving, (SaveAndStop(attempt=state.attempt),)


def _workers_ended(state: RunState, event: events.WorkersEnded) -> Result:
    if state.stage not in ACTIVE:
        return state, ()
    ended = close_incidents(state, event.at_s)
    if event.outcome is Outcome.FINISHED:
        committed_step = max(state.committed_step, event.step)
        return _drain(replace(ended, ending=Ending.FINISHED, reason=f"finished at {_last_step(event)}", committed_step=committed_step))
    if state.stage is Stage.SAVING:
        return _drain(replace(ended, ending=Ending.STOPPED, reason=f"stopped on request at {_last_step(event)}"))
    unasked = events.WorkerFailed(
        at_s=event.at_s,
        attempt=event.attempt,
        rank=None,
        node=None,
        cause=Cause.KILLED,
        detail="workers were told to stop by someone else (SIGTERM) and saved",
        at_step=event.step,
        silent_s=0.0,
    )
    return _worker_failed(state, unasked)


def _last_step(event: events.WorkersEnded) -> str:
    """The step that the workers ended at, and how many updates are missing in what looks like a healthy run."""
    updates = f"; {event.num_skipped:,} update{'s' * (event.num_skipped != 1)} skipped in attempt {event.attempt}"
    return f"step {event.step}{updates if event.num_skipped else ''}"


def _workers_gone(state: RunState, event: events.WorkersGone) -> Result:
    if state.stage is not Stage.DRAINING:
        return state, ()
    if state.ending is not None:
        return replace(state, stage=Stage.ENDED), ()
    judged = _judge(state, event.at_s)
    return _advance(judged, event.at_s)


# --- progress ----------------------------------------------------------------------------------------------------------


def _training_resumed(state: RunState, event: events.TrainingResumed) -> Result:
    if state.resumed_from is not None or state.stage not in ACTIVE:
        return state, ()
    rejected = (*state.rejected, *event.rejected)
    return replace(state, resumed_from=event.from_step, committed_step=event.from_step, rejected=rejected), ()


def _step_reached(state: RunState, event: events.StepReached) -> Result:
    if state.stage is not Stage.STARTING:
        return state, ()
    return replace(close_incidents(state, event.at_s), stage=Stage.RUNNING, reason=""), ()


def _committed(state: RunState, event: events.CheckpointCommitted) -> Result:
    if event.step <= state.committed_step:
        return state, ()
    return replace(state, committed_step=event.step, restarts_in_row=0), ()


# --- failures ----------------------------------------------------------------------------------------------------------


def _worker_failed(state: RunState, event: events.WorkerFailed) -> Result:
    incident = incident_of(event)
    if state.stage in ACTIVE:
        ending = Ending.STOPPED if state.stage is Stage.SAVING else None
        reason = f"stopped on request; its last checkpoint failed: {event.detail}" if ending else ""
        return _drain(replace(state, incidents=(*state.incidents, incident), ending=ending, reason=reason))
    if state.stage is Stage.DRAINING:
        return explain(state, incident) or state, ()
    return state, ()


def _nodes_changed(state: RunState, event: events.NodesChanged) -> Result:
    nodes = {name: node for name, node in state.nodes.items() if name not in event.lost} | {node.node: node for node in event.joined}
    changed = replace(state, nodes=nodes)
    for name in event.lost:
        lost = _node_lost(state, event, name)
        if state.stage in ACTIVE and lost.rank is not None:
            return _worker_failed(changed, lost)
        explained = explain(changed, incident_of(lost))
        if explained is not None:
            changed = replace(explained, not_before_s=min(state.not_before_s, event.at_s))
    return _advance(changed, event.at_s)


def _node_lost(state: RunState, event: events.NodesChanged, name: str) -> events.WorkerFailed:
    rank = state.placement.index(name) * _terms(state).workers_per_node if name in state.placement else None
    return events.WorkerFailed(
        at_s=event.at_s,
        attempt=state.attempt,
        rank=rank,
        node=name,
        cause=Cause.NODE_LOST,
        detail="the node left the cluster",
        at_step=event.at_step,
        silent_s=event.silent_s,
    )


def _judge(state: RunState, at_s: float) -> RunState:
    """After the last worker of a failed attempt is gone: restart, when, or end with the reason."""
    terms, incident = _terms(state), state.incidents[-1]
    verdict = VERDICTS[incident.cause]
    if not verdict.restart:
        return _fail(state, f"{incident.cause.value}: {incident.detail}; no restart can help")
    times = times_in_row(state)
    if verdict.same_step_limit is not None and times >= verdict.same_step_limit:
        return _fail(state, f"{incident.cause.value} {times} times in a row at step {incident.at_step}: {incident.detail}")
    limit = terms.recovery.max_restarts
    if state.restarts_in_row >= limit:
        return _fail(
            state,
            f"recovery.max_restarts={limit} restarts without a new checkpoint; last: {incident.cause.value}: {incident.detail}",
        )
    in_row = state.restarts_in_row + 1
    wait_s = backoff_s(in_row, terms.recovery.backoff_s, terms.recovery.backoff_limit_s)
    if incident.cause is Cause.PEER_LOST:
        wait_s = max(wait_s, terms.recovery.peer_grace_s)
    strikes, barred = state.strikes, state.barred
    if incident.node is not None and verdict.strikes:
        strikes = {**strikes, incident.node: strikes.get(incident.node, 0) + verdict.strikes}
    if incident.node is not None and verdict.bars_node:
        barred = tuple(sorted({*barred, incident.node}))
    return replace(
        state,
        stage=Stage.WAITING,
        strikes=strikes,
        barred=barred,
        restarts=state.restarts + 1,
        restarts_in_row=in_row,
        not_before_s=at_s + wait_s,
        reason=_recovering_from(state),
    )


def _fail(state: RunState, reason: str) -> RunState:
    return replace(state, stage=Stage.ENDED, ending=Ending.FAILED, reason=reason)


# --- small steps -------------------------------------------------------------------------------------------------------


def _advance(state: RunState, at_s: float) -> Result:
    """Start the next attempt if nothing stands in its way."""
    if state.stage is not Stage.WAITING or state.terms is None or at_s < state.not_before_s:
        return state, ()
    terms, nodes = state.terms, placement_for(state)
    if not nodes:
        return replace(state, reason=_shortage(state, terms)), ()
    attempt = state.attempt + 1
    started = replace(state, stage=Stage.STARTING, attempt=attempt, placement=nodes, resumed_from=None, reason=_recovering_from(state))
    return started, (
        StartWorkers(
            attempt=attempt,
            nodes=nodes,
            workers_per_node=terms.workers_per_node,
            world_size=terms.world_size,
            config_version=terms.config_version,
        ),
    )


def _recovering_from(state: RunState) -> str:
    newest = state.incidents[-1] if state.incidents else None
    return f"recovering from {newest.cause.value}: {newest.detail}" if newest and newest.recovered_after_s is None else ""


def _shortage(state: RunState, terms: Terms) -> str:
    barred = [name for name in state.barred if name in state.nodes]
    usable = sum(node.slots >= terms.workers_per_node for name, node in state.nodes.items() if name not in barred)
    told = f"; not trusted any more: {', '.join(barred)}" if barred else ""
    return f"waiting for nodes: needs {terms.num_nodes} with {terms.workers_per_node} free slots, has {usable}{told}"


def placement_for(state: RunState) -> tuple[str, ...]:
    """The nodes that the next attempt would get now; () for none."""
    terms = _terms(state)
    return place(
        state.nodes,
        strikes=state.strikes,
        barred=state.barred,
        num_nodes=terms.num_nodes,
        slots=terms.workers_per_node,
        previous=state.placement,
    )


def _drain(state: RunState) -> Result:
    return replace(state, stage=Stage.DRAINING), (StopWorkers(attempt=state.attempt),)


def _terms(state: RunState) -> Terms:
    assert state.terms is not None, "RunSubmitted is the first event of every journal"
    return state.terms


_HANDLERS: dict[type, Callable[[RunState, Any], Result]] = {
    events.RunSubmitted: _submitted,
    events.ResumeRequested: _resume_requested,
    events.ControllerStarted: _controller_started,
    events.NodesChanged: _nodes_changed,
    events.TrainingResumed: _training_resumed,
    events.StepReached: _step_reached,
    events.CheckpointCommitted: _committed,
    events.WorkerFailed: _worker_failed,
    events.WorkersEnded: _workers_ended,
    events.WorkersGone: _workers_gone,
    events.BackoffElapsed: lambda state, event: _advance(state, event.at_s),
    events.StopRequested: _stop_requested,
}
