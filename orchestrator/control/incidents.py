"""Failures and what caused them: one fault shows in several places, the root cause often last. Pure."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.control.causes import Cause
from orchestrator.control.events import WorkerFailed
from orchestrator.control.state import Incident, RunState

_SIGNS_OF_A_DYING_NODE = (Cause.KILLED, Cause.AGENT_LOST, Cause.FROZEN, Cause.HUNG)


def incident_of(event: WorkerFailed) -> Incident:
    return Incident(
        attempt=event.attempt,
        cause=event.cause,
        node=event.node,
        rank=event.rank,
        detail=event.detail,
        at_step=event.at_step,
        at_s=event.at_s,
        detected_after_s=event.silent_s,
    )


def explain(state: RunState, root: Incident) -> RunState | None:
    """The state with `root` in the place of its newest incident, where that one was only a consequence of it; else None.

    Two consequences are known: a worker that lost a peer, whatever became of the peer being the cause; and a worker that ended because its
    whole node was lost. The incident keeps the moment at which the first sign of it was seen.
    """
    newest = state.incidents[-1] if state.incidents else None
    if newest is None or newest.recovered_after_s is not None:
        return None
    peer = (
        newest.attempt == root.attempt and newest.cause is Cause.PEER_LOST and root.cause is not Cause.PEER_LOST and root.rank is not None
    )
    node = newest.cause in _SIGNS_OF_A_DYING_NODE and root.cause is Cause.NODE_LOST and newest.node == root.node
    if not (peer or node):
        return None
    rank = newest.rank if node else root.rank
    last_sign_of_life_s = root.at_s - root.detected_after_s
    merged = replace(
        root,
        attempt=newest.attempt,
        rank=rank,
        at_step=max(newest.at_step, root.at_step),
        at_s=newest.at_s,
        detected_after_s=max(0.0, newest.at_s - last_sign_of_life_s),
    )
    return replace(state, incidents=(*state.incidents[:-1], merged))


def close_incidents(state: RunState, at_s: float) -> RunState:
    """Every open incident since the run was last resumed is recovered from: the current attempt has finished a step."""
    resumed_from = state.resumed_from or 0

    def closed(incident: Incident) -> Incident:
        replayed = max(0, incident.at_step - resumed_from)
        return replace(incident, recovered_after_s=at_s - incident.at_s, resumed_from_step=resumed_from, steps_replayed=replayed)

    history = state.resumed_after_attempt
    incidents = tuple(one if one.recovered_after_s is not None or one.attempt <= history else closed(one) for one in state.incidents)
    return replace(state, incidents=incidents)


def times_in_row(state: RunState) -> int:
    """How many of the newest incidents, since the run was last resumed, have the same cause at the same step."""
    last, count = state.incidents[-1], 0
    for incident in reversed(state.incidents):
        if (incident.cause, incident.at_step) != (last.cause, last.at_step) or incident.attempt <= state.resumed_after_attempt:
            break
        count += 1
    return count
