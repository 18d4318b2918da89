"""transition(state, event) → state: every decision about a run, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orchestrator.control import events
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.control.incidents import close_incidents, explained, incident_of, moved
from orchestrator.control.judge import judge
from orchestrator.control.state import ACTIVE, Ending, Fault, LostCheckpoint, RunState, Stage, Terms
from orchestrator.messages import Outcome, Source


def transition(state: RunState, event: Event) -> RunState:
    """The run after `event`. An event that changes nothing returns the same state; so do events of other attempts."""
    expected = state.attempt + isinstance(event, events.AttemptStarted)
    if getattr(event, "attempt", expected) != expected:
        return state
    return _HANDLERS[type(event)](state, event)


# --- a person's wishes -------------------------------------------------------------------------------------------------


def _submitted(state: RunState, event: events.RunSubmitted) -> RunState:
    return state if state.terms is not None else replace(state, terms=event.terms, run_id=event.run_id)


def _resume_requested(state: RunState, event: events.ResumeRequested) -> RunState:
    """A run that is being stopped goes on instead: after its workers have saved, or as soon as it is known that they are gone."""
    if state.stage is not Stage.ENDED:
        if state.terms is None or not state.stop_wanted or state.ending is Ending.FINISHED:
            return state
        return replace(state, stop_wanted=False, ending=None, reason="")
    return replace(
        state,
        stage=Stage.WAITING,
        terms=event.terms,
        ending=None,
        stop_wanted=False,
        reason="",
        restarts_in_row=0,
        waited_s=0.0,
        wait_s=0.0,
        wants_nodes=False,
        resumed_after_attempt=state.attempt,
    )


def _stop_requested(state: RunState, event: events.StopRequested) -> RunState:
    if state.stage is Stage.ENDED or state.terms is None:
        return state
    wanted = replace(state, stop_wanted=True)
    if state.stage is Stage.WAITING:
        return _end(wanted, Ending.STOPPED, "stopped on request")
    if state.stage is Stage.DRAINING:
        return wanted if state.ending else replace(wanted, ending=Ending.STOPPED, reason="stopped on request")
    if event.now or state.stage is Stage.STARTING:
        return _drain(replace(wanted, ending=Ending.STOPPED, reason="stopped on request, without a new checkpoint"))
    return replace(wanted, stage=Stage.SAVING)


def _found_dead(state: RunState, event: events.FoundDead) -> RunState:
    if state.stage is Stage.ENDED or state.terms is None:
        return state
    return _end(replace(state, stop_wanted=True), state.ending or Ending.STOPPED, state.reason or "stopped on request")


def _repaired(state: RunState, event: events.Repaired) -> RunState:
    """Where it is not certain that the run has ended it waits for its next attempt, so that a person may stop it or go on with it."""
    reason = f"{len(event.lost)} entries of its journal are lost; repaired by {event.by}"
    waits = RunState(run_id=state.run_id, restarts=state.restarts, incidents=state.incidents, reason=reason)
    return replace(
        state if event.has_ended else waits,
        terms=event.terms,
        epoch=event.epoch,
        attempt=event.last_attempt,
        committed_step=event.committed_step,
    )


# --- attempts begin and end --------------------------------------------------------------------------------------------


def _controller_started(state: RunState, event: events.ControllerStarted) -> RunState:
    return replace(state, epoch=event.epoch)


def _attempt_started(state: RunState, event: events.AttemptStarted) -> RunState:
    if state.stage is not Stage.WAITING or state.terms is None:
        return state
    return replace(
        moved(state, event.placement),
        stage=Stage.STARTING,
        attempt=event.attempt,
        placement=event.placement,
        given_back=(),
        resumed_from=None,
        source=Source.STORE,
        wait_s=0.0,
        wants_nodes=False,
        save_within_s=None,
        reason=recovering_from(state),
        rejected=(),
        lost_checkpoints=(),
    )


def _nodes_short(state: RunState, event: events.NodesShort) -> RunState:
    if state.stage is not Stage.WAITING or state.wants_nodes:
        return state
    return replace(state, wants_nodes=True, reason=event.text)


def _workers_ended(state: RunState, event: events.WorkersEnded) -> RunState:
    if state.stage not in ACTIVE:
        return state
    if event.outcome is Outcome.FINISHED:
        finished = replace(close_incidents(state, event.at_s), committed_step=max(state.committed_step, event.step))
        return _drain(replace(finished, ending=Ending.FINISHED, reason=f"finished at {_last_step(event)}"))
    if state.stop_wanted:
        stopped = close_incidents(state, event.at_s)
        return _drain(replace(stopped, ending=Ending.STOPPED, reason=f"stopped on request at {_last_step(event)}"))
    if state.stage is Stage.SAVING:
        return _drain(state)
    return _failed(state, _told_to_leave(state, event))


def _told_to_leave(state: RunState, event: events.WorkersEnded) -> events.FaultsSeen:
    detail = "workers were told to stop by someone else (SIGTERM) and saved"
    faults = tuple(fault_on(state, node, Cause.LEAVING, detail) for node in event.told)
    nowhere = Fault(cause=Cause.LEAVING, node=None, machine=None, rank=None, detail=detail)
    return events.FaultsSeen(at_s=event.at_s, attempt=event.attempt, faults=faults or (nowhere,), at_step=event.step, silent_s=0.0)


def _last_step(event: events.WorkersEnded) -> str:
    """The step that the workers ended at, and how many updates are missing in what looks like a healthy run."""
    updates = f"; {event.num_skipped:,} update{'s' * (event.num_skipped != 1)} skipped in attempt {event.attempt}"
    return f"step {event.step}{updates if event.num_skipped else ''}"


def _workers_gone(state: RunState, event: events.WorkersGone) -> RunState:
    if state.stage is not Stage.DRAINING:
        return state
    if state.ending is not None:
        return replace(state, stage=Stage.ENDED)
    judgement = judge(state, spares=event.spares)
    if judgement.ends_because:
        return _end(state, Ending.FAILED, judgement.ends_because)
    return replace(
        state,
        stage=Stage.WAITING,
        restarts=state.restarts + 1,
        restarts_in_row=judgement.restarts_in_row,
        wait_s=judgement.wait_s,
        waited_s=state.waited_s + judgement.wait_s,
        reason=recovering_from(state),
    )


# --- progress ----------------------------------------------------------------------------------------------------------


def _training_resumed(state: RunState, event: events.TrainingResumed) -> RunState:
    """To start further on than ever is progress: from a snapshot, or from a checkpoint whose commit was told to nobody."""
    if state.resumed_from is not None or state.stage not in ACTIVE:
        return state
    is_further = event.from_step > max(state.committed_step, state.kept_step)
    return replace(
        _progressed(state) if is_further else state,
        resumed_from=event.from_step,
        source=event.source,
        kept_step=max(state.kept_step, event.from_step),
        committed_step=event.from_step if event.source is Source.STORE else state.committed_step,
        rejected=event.rejected,
    )


def _step_reached(state: RunState, event: events.StepReached) -> RunState:
    if state.stage is not Stage.STARTING:
        return state
    return replace(close_incidents(state, event.at_s), stage=Stage.RUNNING, reason="")


def _committed(state: RunState, event: events.CheckpointCommitted) -> RunState:
    if event.step <= state.committed_step:
        return state
    return replace(_progressed(state), committed_step=event.step, lost_checkpoints=())


def _progressed(state: RunState) -> RunState:
    return replace(state, restarts_in_row=0, waited_s=0.0)


def _checkpoint_lost(state: RunState, event: events.CheckpointLost) -> RunState:
    """Where one node alone loses checkpoint after checkpoint, and there is another, the run leaves it; where all do, it trains on."""
    if state.stage not in ACTIVE or any(lost.step == event.step for lost in state.lost_checkpoints):
        return state
    machine = state.machine_of(event.node) if event.node else None
    row = (*state.lost_checkpoints, LostCheckpoint(step=event.step, ranks=event.ranks, machine=machine, text=event.text))
    limit = terms_in(state).recovery.max_lost_checkpoints
    newest = row[-limit:]
    is_its_own = len(newest) == limit and {lost.machine for lost in newest} == {machine} and len(state.placement) > 1
    has_moved_in_vain = state.restarts_in_row > 0
    is_ending = state.stage is Stage.SAVING  # one more checkpoint is on its way
    if event.node is None or not is_its_own or not event.spares or has_moved_in_vain or is_ending:
        return replace(state, lost_checkpoints=newest)
    detail = f"{limit} checkpoints in a row were lost there: {event.text}"
    fault = fault_on(state, event.node, Cause.CUT_OFF, detail)
    seen = events.FaultsSeen(at_s=event.at_s, attempt=event.attempt, faults=(fault,), at_step=event.step, silent_s=0.0)
    return _failed(replace(state, lost_checkpoints=newest), seen)


# --- failures ----------------------------------------------------------------------------------------------------------


def _faults_seen(state: RunState, event: events.FaultsSeen) -> RunState:
    return _failed(state, event) if state.stage in ACTIVE else explained(state, event)


def _failed(state: RunState, seen: events.FaultsSeen) -> RunState:
    """A run that is leaving a node has an incident already."""
    is_leaving = bool(state.incidents) and state.incidents[-1].attempt == seen.attempt
    failed = explained(state, seen) if is_leaving else replace(state, incidents=(*state.incidents, incident_of(state, seen)))
    if state.stop_wanted:
        failed = replace(failed, ending=Ending.STOPPED, reason=_how_it_stopped(state, seen, failed.incidents[-1].detail))
    return _drain(failed)


def _how_it_stopped(state: RunState, seen: events.FaultsSeen, detail: str) -> str:
    """A stop is over when its workers fail: what they had not saved is gone with them, and trained again only by a person's resume."""
    if state.committed_step >= seen.at_step > (state.resumed_from or 0):
        return f"stopped on request at step {state.committed_step}; after that was saved: {detail}"
    return f"stopped on request; its last checkpoint failed: {detail}"


def _nodes_to_leave(state: RunState, event: events.NodesToLeave) -> RunState:
    """Workers that have begun to train save first. Between attempts there are none: the nodes are given back.

    Workers that save already may have less time for it now.
    """
    if state.stage is Stage.WAITING:
        return replace(state, given_back=tuple(dict.fromkeys((*state.given_back, *event.nodes))))
    if state.stage is Stage.SAVING and event.within_s is not None and event.within_s < save_within_s(state):
        return replace(state, save_within_s=event.within_s)
    if state.stage not in (Stage.STARTING, Stage.RUNNING):
        return state
    faults = tuple(fault_on(state, node, Cause.LEAVING, event.text) for node in event.nodes)
    seen = events.FaultsSeen(
        at_s=event.at_s, attempt=event.attempt, faults=faults, at_step=max(state.committed_step, state.resumed_from or 0), silent_s=0.0
    )
    leaving = replace(state, incidents=(*state.incidents, incident_of(state, seen)), save_within_s=event.within_s, reason=event.text)
    return _drain(leaving) if state.stage is Stage.STARTING else replace(leaving, stage=Stage.SAVING)


def _saving_overdue(state: RunState, event: events.SavingOverdue) -> RunState:
    if state.stage is not Stage.SAVING:
        return state
    if not state.stop_wanted:
        return _drain(state)
    reason = f"stopped on request; its last checkpoint failed: it took longer than {save_within_s(state):g} s"
    return _drain(replace(state, ending=Ending.STOPPED, reason=reason))


def save_within_s(state: RunState) -> float:
    """How long workers that are to save and end may take."""
    limit = terms_in(state).recovery.stop_timeout_s
    return limit if state.save_within_s is None else min(limit, state.save_within_s)


# --- small steps -------------------------------------------------------------------------------------------------------


def recovering_from(state: RunState) -> str:
    newest = state.incidents[-1] if state.incidents else None
    return f"recovering from {newest.cause.value}: {newest.detail}" if newest and newest.recovered_after_s is None else ""


def fault_on(state: RunState, node: str, cause: Cause, detail: str) -> Fault:
    """A fault of a whole node: its first rank stands for all."""
    index = next((index for index, placed in enumerate(state.placement) if placed.node == node), None)
    if index is None:
        return Fault(cause=cause, node=node, machine=None, rank=None, detail=detail)
    return fault_at(state, index, cause, detail)


def fault_at(state: RunState, index: int, cause: Cause, detail: str) -> Fault:
    """The same for a node of the attempt, by its place."""
    placed = state.placement[index]
    rank = index * terms_in(state).workers_per_node
    return Fault(cause=cause, node=placed.node, machine=placed.machine, rank=rank, detail=detail)


def terms_in(state: RunState) -> Terms:
    """What the run was submitted with."""
    assert state.terms is not None, "RunSubmitted is the first event of every journal"
    return state.terms


def _drain(state: RunState) -> RunState:
    return replace(state, stage=Stage.DRAINING)


def _end(state: RunState, ending: Ending, reason: str) -> RunState:
    return replace(state, stage=Stage.ENDED, ending=ending, reason=reason)


_HANDLERS: dict[type, Callable[[RunState, Any], RunState]] = {
    events.RunSubmitted: _submitted,
    events.ResumeRequested: _resume_requested,
    events.StopRequested: _stop_requested,
    events.FoundDead: _found_dead,
    events.Repaired: _repaired,
    events.ControllerStarted: _controller_started,
    events.AttemptStarted: _attempt_started,
    events.NodesShort: _nodes_short,
    events.TrainingResumed: _training_resumed,
    events.StepReached: _step_reached,
    events.CheckpointCommitted: _committed,
    events.CheckpointLost: _checkpoint_lost,
    events.NodesToLeave: _nodes_to_leave,
    events.FaultsSeen: _faults_seen,
    events.SavingOverdue: _saving_overdue,
    events.WorkersEnded: _workers_ended,
    events.WorkersGone: _workers_gone,
}
