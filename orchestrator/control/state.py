"""What the controller knows of a run. Values only; `transition` is beside it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum

from orchestrator.config import PREEMPTION_GRACE_S, SINCE_DESIRED, RecoveryConfig, RunConfig
from orchestrator.control.causes import Cause
from orchestrator.control.placement import Placed
from orchestrator.messages import Source

SINCE_IDENTITY = {"omit_default": True}
"""Runs of earlier versions have none; what they stored stays as it was."""
SINCE_SNAPSHOTS = {"omit_default": True}
SINCE_LADDER = {"omit_default": True}
SINCE_HEALTH = {"omit_default": True}


class Stage(Enum):
    """What the workers of a run are about; for the run itself, `RunState.label` is the word that people see."""

    WAITING = "waiting"
    """No workers: for nodes, or for a backoff to pass."""
    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    """Workers checkpoint and end: a person asked for it, or a node is to be left."""
    DRAINING = "draining"
    """Workers are being killed."""
    ENDED = "ended"


ACTIVE = (Stage.STARTING, Stage.RUNNING, Stage.SAVING)
"""Workers are meant to be at work."""


class Ending(Enum):
    """How a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the state machine decides by; the journal has them, so that reading a run needs nothing else."""

    num_steps: int
    num_nodes: int
    workers_per_node: int
    world_size: int
    config_version: int
    recovery: RecoveryConfig
    preemption_grace_s: float = field(default=PREEMPTION_GRACE_S, metadata=SINCE_DESIRED)


def terms_of(config: RunConfig, version: int) -> Terms:
    return Terms(
        num_steps=config.train.num_steps,
        num_nodes=config.num_nodes,
        workers_per_node=min(config.resources.workers_per_node, config.parallel.world_size),
        world_size=config.parallel.world_size,
        config_version=version,
        recovery=config.recovery,
        preemption_grace_s=config.resources.preemption_grace_s,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that went wrong, as the ranks that met it tell."""

    cause: Cause
    node: str | None
    """Where it was met; None where nothing says where it comes from."""
    machine: str | None
    rank: int | None
    """The lowest rank that met it."""
    detail: str
    num_ranks: int = 1
    """Ranks that say the same."""
    num_nodes: int = 1
    """Nodes that these ranks are on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident(Fault):
    """One failure of an attempt, from its detection to the first step after it: the fault that explains most of what was seen."""

    attempt: int
    at_step: int
    at_s: float
    """Detection, seconds since the epoch."""
    detected_after_s: float
    """From the last sign of life to the detection."""
    also: tuple[Fault, ...] = ()
    """What that fault does not explain, such as a second broken node."""
    strikes: dict[str, int] = field(default_factory=dict)
    """By machine, what is held against it because of this failure."""
    cordons: tuple[str, ...] = ()
    """Machines that are not to be used any more because of it."""
    recovered_after_s: float | None = None
    """From the detection to the first finished step of a later attempt."""
    resumed_from_step: int | None = None
    source: Source = field(default=Source.STORE, metadata=SINCE_LADDER)
    """Where the state came from that it went on with."""
    left: tuple[str, ...] = field(default=(), metadata=SINCE_LADDER)
    """Machines whose places were given to others since, until it was recovered from; () where it was answered on the same nodes."""
    steps_replayed: int | None = None

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All that counts, the fault that explains most first."""
        root = Fault(**{known.name: getattr(self, known.name) for known in fields(Fault)})
        return (root, *self.also)


@dataclass(frozen=True, kw_only=True, slots=True)
class LostCheckpoint:
    """A checkpoint that came to nothing while training went on."""

    step: int
    ranks: tuple[int, ...]
    """Ranks that could not write their part, the first eight of them."""
    machine: str | None
    """Where they are; None where they are on several machines."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """Every field is always stored, at its default too: one that returns to it would not be told else."""

    stage: Stage = Stage.WAITING
    terms: Terms | None = None
    run_id: str = ""
    """See `RunIdentity.id`."""
    epoch: int = 0
    """Incarnation of the controller."""
    attempt: int = 0
    placement: tuple[Placed, ...] = ()
    """Nodes of the attempt, in the order of their ranks."""
    given_back: tuple[str, ...] = ()
    """Those of them whose machine was cordoned, once no worker is left there: the run holds them no more."""
    committed_step: int = 0
    resumed_from: int | None = None
    """Step that the current attempt started from, once known."""
    source: Source = Source.STORE
    """Where it had the state of that step from."""
    kept_step: int = 0
    """The furthest step that an attempt has started from."""
    restarts: int = 0
    restarts_in_row: int = 0
    waited_s: float = 0.0
    """Waits that were ordered before the restarts in this row, added up. At least as long was waited: one that a new controller begins
    anew counts once, and neither the attempts between them nor waits for nodes count."""
    wait_s: float = 0.0
    """How long the run waits before its next attempt, from the moment at which the one before was gone."""
    wants_nodes: bool = False
    """It was said that there are too few nodes."""
    stop_wanted: bool = False
    """A person asked for the end of the run."""
    save_within_s: float | None = None
    """While saving: how long that may take; None for `recovery.stop_timeout_s`."""
    ending: Ending | None = None
    """Decided, while the workers are still being stopped."""
    reason: str = ""
    """Why the run waits or how it ended, for people."""
    incidents: tuple[Incident, ...] = ()
    resumed_after_attempt: int = 0
    """Last attempt before a person resumed the run: incidents up to it are history."""
    rejected: tuple[str, ...] = ()
    """Checkpoints that this attempt refused, one line each."""
    lost_checkpoints: tuple[LostCheckpoint, ...] = ()
    """Those that were lost since the last one that was committed, in this attempt."""

    @property
    def label(self) -> str:
        """queued, starting, running, recovering, stopping, finished, failed or stopped."""
        if self.stage is Stage.ENDED and self.ending is not None:
            return self.ending.value
        if self.stop_wanted or self.ending is not None:
            return "stopping"
        if self.stage in (Stage.RUNNING, Stage.SAVING):
            return "running"
        if self.restarts_in_row or self.stage is Stage.DRAINING:
            return "recovering"
        return "starting" if self.stage is Stage.STARTING else "queued"

    def machine_of(self, node: str) -> str | None:
        return next((placed.machine for placed in self.placement if placed.node == node), None)
