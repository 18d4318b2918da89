"""What can happen to a run, in the order in which it happened. Values only. Pure.

The journal has each with what was decided because of it (`history`). `at_s` is for people: seconds since the epoch by the clock of whoever
wrote it; nothing is decided by it.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field

from orchestrator.control.placement import Placed
from orchestrator.control.state import SINCE_HEALTH, SINCE_IDENTITY, SINCE_LADDER, Fault, Terms
from orchestrator.messages import Outcome, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSubmitted:
    at_s: float
    terms: Terms
    run_id: str = field(default="", metadata=SINCE_IDENTITY)
    """See `RunIdentity.id`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeRequested:
    """A person restarts a run that has ended, perhaps with a new configuration, or takes back the wish to stop it."""

    at_s: float
    terms: Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRequested:
    at_s: float
    now: bool
    """Without a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundDead:
    """A person stops a run of which no process is left, and whose cluster is gone."""

    at_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """A person goes on although entries of the journal are lost: what may have been in them is allowed for."""

    at_s: float
    by: str
    lost: tuple[int, ...]
    """Numbers of the entries."""
    terms: Terms
    epoch: int
    """At least that of any controller there was."""
    last_attempt: int
    """At least that of any attempt that has begun."""
    committed_step: int
    has_ended: bool
    """For certain: its end came after what was lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerStarted:
    at_s: float
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStarted:
    at_s: float
    attempt: int
    """The new one."""
    placement: tuple[Placed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesShort:
    """There are too few nodes for the next attempt."""

    at_s: float
    attempt: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResumed:
    at_s: float
    attempt: int
    from_step: int
    rejected: tuple[str, ...] = ()
    source: Source = field(default=Source.STORE, metadata=SINCE_LADDER)
    joining_s: float = field(default=0.0, metadata=SINCE_HEALTH)
    """See `messages.Resumed`."""
    loading_s: float = field(default=0.0, metadata=SINCE_HEALTH)
    device: str = field(default="", metadata=SINCE_HEALTH)


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
class CheckpointLost:
    """A checkpoint came to nothing; training goes on."""

    at_s: float
    attempt: int
    step: int
    node: str | None
    """Where the ranks are that could not write their part, if that is one node only."""
    ranks: tuple[int, ...]
    """These ranks, the first eight of them."""
    text: str
    spares: int
    """Usable nodes that the attempt is not on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodesToLeave:
    """Machines were cordoned that the attempt is on, or that are kept for the next one; or workers there got SIGTERM from outside."""

    at_s: float
    attempt: int
    nodes: tuple[str, ...]
    text: str
    within_s: float | None = None
    """How long the workers may take to save, from the moment at which they were told to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultsSeen:
    """What is wrong with the attempt: all of it, as it shows at one moment."""

    at_s: float
    attempt: int
    faults: tuple[Fault, ...]
    at_step: int
    """Last step that any worker had reported."""
    silent_s: float
    """Since the last sign of life from where the first of the faults is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavingOverdue:
    """Workers that were to save and end have not."""

    at_s: float
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkersEnded:
    """Every worker said that it is done."""

    at_s: float
    attempt: int
    outcome: Outcome
    step: int
    num_skipped: int = 0
    """Updates that the attempt skipped because of a spike."""
    told: tuple[str, ...] = ()
    """Nodes on which workers got SIGTERM from outside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkersGone:
    """No process of the attempt is left that could be reached."""

    at_s: float
    attempt: int
    spares: int = 0
    """Usable nodes that the attempt was not on."""


Event = (
    RunSubmitted
    | ResumeRequested
    | StopRequested
    | FoundDead
    | Repaired
    | ControllerStarted
    | AttemptStarted
    | NodesShort
    | TrainingResumed
    | StepReached
    | CheckpointCommitted
    | CheckpointLost
    | NodesToLeave
    | FaultsSeen
    | SavingOverdue
    | WorkersEnded
    | WorkersGone
)

EVENT_KINDS: dict[str, type[Event]] = {cls.__name__: cls for cls in typing.get_args(Event)}
"""By the name that a journal has for each."""
