"""What workers and their node agent tell each other, and agents the controller: the contract between `worker` and `control`. Pure.

Two pipes of JSON lines join an agent and a worker. The worker writes its messages to the file descriptor named by BRAID_REPORT_FD; an agent
folds them into a `WorkerReport` for each worker: levels, not edges, so that a controller that restarts loses nothing. The worker reads its
orders from the descriptor named by BRAID_ORDER_FD: one `Assign` first, then what else there is to do. A pipe's end is its other side's end.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from data_pipeline.config import StorageConfig
from model.train.metrics import StepMetrics
from orchestrator import codec
from orchestrator.telemetry import NodeLevels


class Phase(Enum):
    """Where a worker is."""

    STARTING = "starting"
    """The process exists; it imports, and waits for the others."""
    LOADING = "loading"
    """Building the model and reading the checkpoint."""
    WARMING = "warming"
    """In its first step, which compiles kernels."""
    TRAINING = "training"
    SAVING = "saving"
    """Taking a checkpoint at a step boundary, where the one before may have to be waited for; the last one is waited for as well."""
    DONE = "done"


class Mode(Enum):
    """What the workers of an attempt are to do."""

    RUN = "run"
    SAVE = "save"
    """Checkpoint at the next step boundary, and end."""
    KILL = "kill"
    """Be gone, those of every older attempt too."""


class Source(Enum):
    """Where an attempt has the state from that it goes on with."""

    STORE = "store"
    """A checkpoint; with step 0 nothing at all, or another run's."""
    MEMORY = "memory"
    """A snapshot, which every rank's own agent kept, and which no store has."""
    OTHER_MEMORY = "another node's memory"
    """The same, but some ranks' agents had it from others, which kept copies."""


class Outcome(Enum):
    FINISHED = "finished"
    """The last step is done and its checkpoint committed."""
    STOPPED = "stopped"
    """Asked to stop: checkpoint committed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataUse:
    """What a worker's data cost it in this attempt; of several workers: sums of bytes, and else what is most."""

    fetched_bytes: int = 0
    """From the store."""
    used_bytes: int = 0
    """Of the tokens that it trained on, and read ahead."""
    wait_share: float = 0.0
    """Of the time of the last steps: how much of it training waited for data."""
    unread_rows: int = 0
    """Rows of the global batches that could not be read."""
    repetitive_rows: int = 0
    """Rows of the global batches that the repetition filter left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """What a worker tells of itself again and again. A new level is a field here, set by the reporter; all others pass it on whole."""

    phase: Phase = Phase.STARTING
    step: int = 0
    """Last finished step."""
    begun: int = 0
    """Last step that it had the data for and began to compute; from there on it may wait for others."""
    evaluated: int = 0
    """Batches of held-out text that it has looked at in all."""
    metrics: StepMetrics | None = None
    """What that step measured; None before this attempt's first."""
    tokens_per_s: float | None = None
    """Speed over the last steps; 0 after the first, None before it."""
    num_skipped: int = 0
    """Updates that this attempt has skipped because of a spike."""
    data: DataUse = DataUse()
    told_to_leave: bool = False
    """It got SIGTERM, which agents don't send: its node is about to go, or a person wants the process gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat(Levels):
    """Sign of life: every half second from a thread of its own, and at each phase and step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The process has imported all that training needs, and waits for its first order, or finds it there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    """Rank 0 has chosen the checkpoint or snapshot that every rank loaded; step 0 is a fresh start."""

    step: int
    source: Source = Source.STORE
    rejected: tuple[str, ...] = ()
    """One line for each newer checkpoint that was refused or passed over, and why."""
    joining_s: float = 0.0
    """From this rank's orders to the moment at which all had met and it began to load."""
    loading_s: float = 0.0
    """From there until the model stood with its state in it."""
    device: str = ""
    """This rank's GPU, by the driver's name for its kind; "" on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """Rank 0 has committed the checkpoint of a step."""

    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointLost:
    """Rank 0 tells that the checkpoint of a step came to nothing, while training goes on."""

    step: int
    ranks: tuple[int, ...]
    """Ranks that could not write their part, the first few of them and the last; rank 0 too where the commit itself failed."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    outcome: Outcome
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The exception that ends a worker."""

    error_type: str
    """Class name, such as ConfigMismatch, StoreUnavailable, DistBackendError."""
    text: str
    """The first line of its message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendezvous:
    """Where the workers of an attempt meet."""

    address: str
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MirrorPlace:
    """Where an agent keeps copies of another node's snapshots."""

    address: str
    port: int
    token: str = field(repr=False)
    """Who shows it may write there and read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assign:
    """A worker's first order: what it is to train, and as whom."""

    run: str
    storage: StorageConfig
    config_version: int
    attempt: int
    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    rendezvous: Rendezvous


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Checkpoint at the next step boundary, and end."""


Message = Beat | Ready | Resumed | Committed | CheckpointLost | Ended | Failed
WorkerOrder = Assign | Stop
_MESSAGES: dict[str, Any] = {cls.__name__: cls for cls in typing.get_args(Message)}
_ORDERS: dict[str, Any] = {cls.__name__: cls for cls in typing.get_args(WorkerOrder)}


def encode(told: Message | WorkerOrder) -> bytes:
    """One line of JSON, newline included."""
    return json.dumps({"kind": type(told).__name__, **codec.to_plain(told)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises codec.DecodeError for anything that `encode` did not write of a worker's message."""
    message: Message = _decode(_MESSAGES, line, "a worker's message")
    return message


def decode_order(line: bytes) -> WorkerOrder:
    """Raises codec.DecodeError for anything that `encode` did not write of an order to a worker."""
    order: WorkerOrder = _decode(_ORDERS, line, "an order to a worker")
    return order


def _decode(kinds: dict[str, Any], line: bytes, what: str) -> Any:
    try:
        plain = codec.load_json(line)
        kind = kinds[plain.pop("kind")]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise codec.DecodeError(f"not {what}: {line[:80]!r}; is another version of braid installed there?") from error
    return codec.from_plain(kind, plain)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerReport(Levels):
    """What an agent knows of one worker: the levels that it told last, and what became of it."""

    rank: int
    pid: int
    silent_s: float = 0.0
    """Seconds since the worker's last message of any kind."""
    is_stopped: bool = False
    """The kernel says that the process is stopped (SIGSTOP): its silence is no slowness."""
    last_progress_s: float = 0.0
    """Seconds since the worker last got anywhere: to another phase, a step's end, through a batch of held-out text."""
    age_s: float = 0.0
    """Seconds since the worker was spawned."""
    committed_step: int | None = None
    lost_checkpoint: CheckpointLost | None = None
    """The newest checkpoint that was lost since the last one that was committed."""
    resumed: Resumed | None = None
    ended: Ended | None = None
    failed: Failed | None = None
    exit_code: int | None = None
    """None while it runs; −n when signal n killed it."""
    killed_by_agent: bool = False
    """The agent ended the process on purpose, so its exit status says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentReport:
    """What one agent says of its node. An agent lives as long as its run; attempts come and go in it."""

    node: str
    attempt: int = 0
    """The newest attempt that it was told of, by any controller; 0 for none."""
    workers: tuple[WorkerReport, ...] = ()
    """The workers of that attempt, by rank; () where it was not told to start any."""
    rendezvous: Rendezvous | None = None
    """Where the workers of that attempt meet."""
    offer: Rendezvous | None = None
    """Where the workers of the next attempt could meet, held for them."""
    is_empty: bool = True
    """No process of that attempt or an older one is left."""
    stuck: tuple[int, ...] = ()
    """Process ids that have survived SIGKILL for longer than `recovery.kill_timeout_s`: stuck in the kernel, maybe holding a GPU."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the node's GPUs that it holds."""
    standbys: int = 0
    """Processes that stand by for the next workers, and are ready."""
    mirror: MirrorPlace | None = None
    """Where it keeps copies for the agent whose buddy it is."""
    levels: NodeLevels | None = None
    """Of the node's hardware, as of its last look; None before the first."""


def grown_older(report: WorkerReport, by_s: float) -> WorkerReport:
    """The report as it stands after `by_s` seconds in which it was not renewed."""
    return replace(report, silent_s=report.silent_s + by_s, last_progress_s=report.last_progress_s + by_s, age_s=report.age_s + by_s)
