"""An incident hop by hop, from its last good sign to the step that was new again: what took how long. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.control import events
from orchestrator.control.causes import Cause
from orchestrator.control.events import Event
from orchestrator.control.state import Incident

BY_CONTROLLER = (Cause.NODE_LOST, Cause.AGENT_LOST, Cause.HUNG, Cause.FROZEN, Cause.LEAVING, Cause.CUT_OFF)
"""Causes that no process says of itself: the controller sees them in what is missing."""
BY_EXIT = (Cause.KILLED, Cause.ABORTED)
"""The node's agent sees them, by how the process ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hop:
    """From the moment of the hop before to its own."""

    name: str
    attempt: int
    begin_s: float
    """Since the last sign of life before the incident."""
    seconds: float


def waterfall(incident: Incident, journal: Sequence[Event], *, caught_up_s: float | None = None) -> tuple[Hop, ...]:
    """The hops of one incident; of one that is not over, those so far. `journal`: all events of the run, in order.

    Where the next attempt failed too its hops are part of it, until an attempt has finished a step. `caught_up_s`: when the first step
    ended that was not trained before, seconds since the epoch; None where that is not known. Clocks of two controllers may differ: no
    hop is shorter than nothing.
    """
    moments = [(name, attempt, at_s) for name, attempt, at_s in _moments(incident, journal)]
    if caught_up_s is not None and incident.recovered_after_s is not None:
        moments.append(("caught up", moments[-1][1], caught_up_s))
    begin_s = before_s = incident.at_s - incident.detected_after_s
    hops = []
    for name, attempt, at_s in moments:
        now_s = max(before_s, at_s)
        hops.append(Hop(name=name, attempt=attempt, begin_s=before_s - begin_s, seconds=now_s - before_s))
        before_s = now_s
    return tuple(hops)


def seen_by(incident: Incident) -> str:
    """Who saw it first."""
    rank = f"rank {incident.rank}" if incident.rank is not None else "a worker"
    if incident.cause in BY_CONTROLLER:
        return "the controller"
    if incident.cause in BY_EXIT or incident.detail.startswith(("killed by", "exit status")):
        return f"the agent of {incident.machine or 'its node'}, by the end of {rank}"
    return f"{rank}, by its own word"


def _moments(incident: Incident, journal: Sequence[Event]) -> Iterator[tuple[str, int, float]]:
    """(what, attempt, when) of all that happened from its detection on."""
    yield "noticed", incident.attempt, incident.at_s
    for event in _of_its_recovery(incident, journal):
        match event:
            case events.FaultsSeen() if event.attempt > incident.attempt:
                yield "failed again", event.attempt, event.at_s
            case events.WorkersGone():
                yield "all gone", event.attempt, event.at_s
            case events.NodesShort():
                yield "too few nodes", event.attempt, event.at_s
            case events.AttemptStarted():
                yield "next attempt", event.attempt, event.at_s
            case events.TrainingResumed():
                yield f"loaded from {event.source.value}", event.attempt, event.at_s
            case events.StepReached():
                yield "first step", event.attempt, event.at_s
            case _:
                pass


def _of_its_recovery(incident: Incident, journal: Sequence[Event]) -> Iterator[Event]:
    """Events of its attempt from its first fault on, and of later ones until one of them has finished a step, or ends the run."""
    begun = False
    for event in journal:
        attempt = getattr(event, "attempt", None)
        if not begun:
            begun = attempt == incident.attempt and isinstance(event, events.FaultsSeen | events.NodesToLeave | events.CheckpointLost)
            begun = begun and getattr(event, "at_s", 0.0) >= incident.at_s
            continue
        if isinstance(event, events.ResumeRequested):
            return
        if attempt is None or attempt < incident.attempt:
            continue
        yield event
        if isinstance(event, events.StepReached | events.WorkersEnded) and attempt > incident.attempt:
            return
