"""Journals of earlier versions. Pure.

Those that wrote events only decided anew whenever they read them. Such a run goes on with a new attempt from its newest checkpoint, unless
it has ended, or may have. What failed before is left to its logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.control import events
from orchestrator.control.causes import Cause
from orchestrator.control.changes import Plain
from orchestrator.control.events import Event
from orchestrator.control.state import Ending, RunState, Stage, Terms
from orchestrator.messages import Outcome, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesChanged:
    """Nodes came and went. Later versions only look at them."""

    at_s: float
    joined: tuple[dict[str, Any], ...]
    lost: tuple[str, ...]
    at_step: int
    silent_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailed:
    at_s: float
    attempt: int
    rank: int | None
    node: str | None
    cause: str
    detail: str
    at_step: int
    silent_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BackoffElapsed:
    at_s: float


EARLIER_KINDS: dict[str, Any] = {cls.__name__: cls for cls in (NodesChanged, WorkerFailed, BackoffElapsed)}


RESTARTS_IN_ANY_CASE = 2
"""Every earlier version tried again after as many failures of any cause but a wrong configuration."""


def state_after(history: Sequence[Event]) -> RunState:
    """What a journal without decisions says for certain; the state of a run that was never submitted for no events."""
    terms: Terms | None = None
    epoch = attempt = committed_step = 0
    stretch: list[Event | WorkerFailed] = []
    for event in history:
        attempt = max(attempt, getattr(event, "attempt", 0))
        match event:
            case events.RunSubmitted() | events.ResumeRequested():
                terms, stretch = event.terms, []
            case events.ControllerStarted():
                epoch = event.epoch
                continue
            case events.CheckpointCommitted():
                committed_step = event.step
            case events.TrainingResumed():
                committed_step = event.from_step
            case events.WorkersEnded():
                committed_step = max(committed_step, event.step)
        stretch.append(event)
    stage, ending, reason = _end_of(stretch, terms)
    return RunState(
        stage=stage,
        terms=terms,
        epoch=epoch,
        attempt=attempt + 1 if attempt else 0,  # one more may have begun without a word
        committed_step=committed_step,
        stop_wanted=ending is Ending.STOPPED,
        ending=ending,
        reason=reason,
    )


def _end_of(stretch: Sequence[Event | WorkerFailed], terms: Terms | None) -> tuple[Stage, Ending | None, str]:
    """How a run is left by the events since it was last submitted or resumed.

    Where a stop has no end, workers may still be saving: a controller sees to it. A failure that ended the run wrote no other event than
    one that another attempt was to follow: where both may be, a person decides.
    """
    are_gone = any(isinstance(event, events.WorkersGone) for event in stretch[-1:])
    outcomes = [event.outcome for event in stretch if isinstance(event, events.WorkersEnded)]
    if are_gone and Outcome.FINISHED in outcomes:
        return Stage.ENDED, Ending.FINISHED, "finished, under an earlier version of braid"
    if any(isinstance(event, events.StopRequested) for event in stretch):
        return Stage.ENDED if are_gone else Stage.DRAINING, Ending.STOPPED, "stopped on request, under an earlier version of braid"
    if not are_gone or terms is None or _goes_on(stretch, terms):
        return Stage.WAITING, None, ""
    told = [f" ({event.cause}: {event.detail})" for event in stretch if isinstance(event, WorkerFailed)]
    failed = f"its last attempt failed{''.join(told[-1:])} under an earlier version of braid"
    return Stage.ENDED, Ending.FAILED, f"{failed}, which may have ended it; `braid resume` goes on"


def _goes_on(stretch: Sequence[Event | WorkerFailed], terms: Terms) -> bool:
    """Whether every earlier version would have tried again after the last of these failures."""
    num_failures = sum(isinstance(event, events.WorkersGone) for event in stretch)
    is_wrong = any(isinstance(event, WorkerFailed) and event.cause == Cause.CONFIG.value for event in stretch)
    return not is_wrong and num_failures <= min(RESTARTS_IN_ANY_CASE, terms.recovery.max_restarts)


def as_now(decided: Plain) -> Plain:
    """What was decided in this version's words: what an attempt began with was `from_memory`, yes or no, and is a `source` now."""
    known = {name: change for name, change in decided.items() if name != "from_memory"}
    if "from_memory" in decided:
        known["source"] = {"is": _source(decided["from_memory"]["is"])}
    if "add" in (incidents := decided.get("incidents", {})):
        known["incidents"] = incidents | {"add": [_incident_as_now(one) for one in incidents["add"]]}
    return known


def _incident_as_now(incident: Plain) -> Plain:
    known = {name: value for name, value in incident.items() if name != "from_memory"}
    return known | {"source": _source(incident["from_memory"])} if "from_memory" in incident else known


def _source(from_memory: bool) -> str:
    return (Source.MEMORY if from_memory else Source.STORE).value
