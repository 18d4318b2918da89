"""What can happen to a run: the entries of its journal, in the order in which they happened. Values only. Pure."""

from __future__ import annotations

import typing
from dataclasses import dataclass

from orchestrator.control.causes import Cause
from orchestrator.control.placement import Node
from orchestrator.control.state import Terms
from orchestrator.messages import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSubmitted:
    at_s: float
    terms: Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeRequested:
    """A person restarts an ended run, perhaps with a new configuration."""

    at_s: float
    terms: Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerStarted:
    at_s: float
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesChanged:
    at_s: float
    joined: tuple[Node, ...] = ()
    lost: tuple[str, ...] = ()
    at_step: int = 0
    """Last step that the lost workers reported."""
    silent_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResumed:
    at_s: float
    attempt: int
    from_step: int
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReached:
    """The first finished step of an attempt."""

    at_s: float
    attempt: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointCommitted:
    at_s: float
    attempt: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFailed:
    at_s: float
    attempt: int
    rank: int | None
    node: str | None
    cause: Cause
    detail: str
    at_step: int
    silent_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkersEnded:
    """Every worker said that it is done."""

    at_s: float
    attempt: int
    outcome: Outcome
    step: int
    num_skipped: int = 0
    """Updates that the attempt skipped because of a spike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkersGone:
    """No process of the attempt is left that could be reached."""

    at_s: float
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BackoffElapsed:
    at_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequested:
    at_s: float
    now: bool
    """Without a checkpoint."""


Event = (
    RunSubmitted
    | ResumeRequested
    | ControllerStarted
    | NodesChanged
    | TrainingResumed
    | StepReached
    | CheckpointCommitted
    | WorkerFailed
    | WorkersEnded
    | WorkersGone
    | BackoffElapsed
    | StopRequested
)

EVENT_KINDS: dict[str, type[Event]] = {cls.__name__: cls for cls in typing.get_args(Event)}
"""By the name that a journal has for each."""
