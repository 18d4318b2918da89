"""Journals of versions that wrote events only, and decided anew whenever they read them. Pure.

Such a run goes on with a new attempt from its newest checkpoint. What failed before is left to its logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.control import events
from orchestrator.control.events import Event
from orchestrator.control.state import Ending, RunState, Stage
from orchestrator.messages import Outcome


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


def state_after(history: Sequence[Event]) -> RunState:
    """What a journal without decisions says for certain; the state of a run that was never submitted for no events."""
    terms, ending = None, None
    epoch = attempt = committed_step = 0
    workers: events.WorkersEnded | None = None
    stop_wanted = False
    for event in history:
        attempt = max(attempt, getattr(event, "attempt", 0))
        match event:
            case events.RunSubmitted() | events.ResumeRequested():
                terms, ending, workers, stop_wanted = event.terms, None, None, False
            case events.ControllerStarted():
                epoch = event.epoch
            case events.CheckpointCommitted() | events.TrainingResumed():
                committed_step = event.step if isinstance(event, events.CheckpointCommitted) else event.from_step
            case events.WorkersEnded():
                workers, committed_step = event, max(committed_step, event.step)
            case events.StopRequested():
                stop_wanted = True
            case events.WorkersGone():
                ending = _ending(workers, stop_wanted)
    if history and isinstance(history[-1], events.StopRequested):
        ending = Ending.STOPPED
    return RunState(
        stage=Stage.ENDED if ending else Stage.WAITING,
        terms=terms,
        epoch=epoch,
        attempt=attempt + 1 if attempt else 0,  # one more may have begun without a word
        committed_step=committed_step,
        ending=ending,
        reason="" if ending is None else f"{ending.value}, under an earlier version of braid",
    )


def _ending(workers: events.WorkersEnded | None, stop_wanted: bool) -> Ending | None:
    """Whether a run had ended when its workers were gone; one that failed for good looks like one that is about to restart."""
    if workers is not None and workers.outcome is Outcome.FINISHED:
        return Ending.FINISHED
    return Ending.STOPPED if stop_wanted else None
