"""What the controller knows of a run. Values only; `transition` is beside it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from orchestrator.config import RecoveryConfig, RunConfig
from orchestrator.control.causes import Cause
from orchestrator.control.placement import Node


class Stage(Enum):
    """What the workers of a run are about; for the run itself, `RunState.label` is the word that people see."""

    WAITING = "waiting"
    """No workers: for nodes, or for a backoff to pass."""
    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    """A graceful stop was asked for; workers checkpoint."""
    DRAINING = "draining"
    """Workers are being killed."""
    ENDED = "ended"


class Ending(Enum):
    """How a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What the state machine decides by; carried by the journal so that a replay needs nothing else."""

    num_steps: int
    num_nodes: int
    workers_per_node: int
    world_size: int
    config_version: int
    recovery: RecoveryConfig


def terms_of(config: RunConfig, version: int) -> Terms:
    return Terms(
        num_steps=config.train.num_steps,
        num_nodes=config.num_nodes,
        workers_per_node=min(config.resources.workers_per_node, config.parallel.world_size),
        world_size=config.parallel.world_size,
        config_version=version,
        recovery=config.recovery,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """One failure, from its detection to the first step after it."""

    attempt: int
    cause: Cause
    node: str | None
    rank: int | None
    detail: str
    at_step: int
    at_s: float
    """Detection, seconds since the epoch."""
    detected_after_s: float
    """From the last sign of life to the detection."""
    recovered_after_s: float | None = None
    """From the detection to the first finished step of a later attempt."""
    resumed_from_step: int | None = None
    steps_replayed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    stage: Stage = Stage.WAITING
    terms: Terms | None = None
    epoch: int = 0
    """Incarnation of the controller."""
    attempt: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)
    strikes: dict[str, int] = field(default_factory=dict)
    barred: tuple[str, ...] = ()
    """Nodes with a hardware fault."""
    placement: tuple[str, ...] = ()
    committed_step: int = 0
    resumed_from: int | None = None
    """Step that the current attempt started from, once known."""
    restarts: int = 0
    restarts_in_row: int = 0
    not_before_s: float = 0.0
    """Earliest start of the next attempt."""
    stop_by_s: float | None = None
    """Deadline of a graceful stop."""
    ending: Ending | None = None
    """Decided, while the workers are still being stopped."""
    reason: str = ""
    """Why the run waits or how it ended, for people."""
    incidents: tuple[Incident, ...] = ()
    resumed_after_attempt: int = 0
    """Last attempt before a person resumed the run: incidents up to it are history."""
    rejected: tuple[str, ...] = ()
    """Checkpoints that were refused, one line each."""

    @property
    def label(self) -> str:
        """queued, starting, running, recovering, stopping, finished, failed or stopped."""
        if self.stage is Stage.ENDED and self.ending is not None:
            return self.ending.value
        if self.stage is Stage.SAVING or self.ending is Ending.STOPPED:
            return "stopping"
        if self.stage is Stage.RUNNING or self.ending is Ending.FINISHED:
            return "running"
        if self.restarts_in_row or self.stage is Stage.DRAINING:
            return "recovering"
        return "starting" if self.stage is Stage.STARTING else "queued"
