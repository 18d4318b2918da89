"""RunConfig: everything that decides a run, made of the packages' own configs. Pure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from data_pipeline.config import CACHE_LIMIT, DataConfig, StorageConfig, check_name
from data_pipeline.stages import Stage, stage_at, stages_of, tokens_until
from model.compute import ComputeConfig
from model.config import ModelConfig, validate_layout
from model.optim.config import OptimizerConfig
from model.optim.groups import validate_groups
from model.optim.schedule import validate_schedule
from model.parallel.config import ParallelConfig
from model.parameters import model_parameters
from orchestrator import codec
from orchestrator.alerts_config import AlertsConfig, MetricsConfig

SINCE_DESIRED = {"omit_default": True}
"""Of fields that configurations before had not: left out at their default, so that what is stored stays readable."""
LABELS_WITHIN = "labels end with their document"
"""What runs with `data.document_masking` learn since they no longer learn the first token of the next document: others are not theirs."""
PREEMPTION_GRACE_S = 300.0
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{key}={value}: must be at least {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    num_steps: int
    batch_rows: int
    """Rows of `data.seq_len` tokens in one optimizer step, over all ranks."""
    micro_rows: int
    """Rows that one data-parallel rank takes through the model at once; the rest is gradient accumulation."""
    seed: int = 34521
    deterministic: bool = True
    """Deterministic kernels, so that a replayed step repeats its first run bit for bit on the same layout."""

    def __post_init__(self) -> None:
        _at_least("train.num_steps", self.num_steps, 1)
        _at_least("train.batch_rows", self.batch_rows, 1)
        _at_least("train.micro_rows", self.micro_rows, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class StartConfig:
    """What a run begins from instead of fresh weights; its steps, its data and its schedule begin anew."""

    run: str = ""
    """Another run of the same storage: one that was trained, imported or averaged."""
    step: int = -1
    """Step of the checkpoint to begin from; -1 for the newest, which `braid submit` replaces by its step at that moment."""
    optimizer: Literal["reset", "keep"] = "reset"
    """keep takes the optimizer's state along, moments and step counts."""

    def __post_init__(self) -> None:
        if self.run and not RUN_NAME.fullmatch(self.run):
            raise ValueError(f"start.run={self.run!r}: not the name of a run; see `braid runs`")
        if self.step < -1:
            raise ValueError(f"start.step={self.step}: use the step of a checkpoint, or -1 for the newest")
        if self.optimizer not in ("reset", "keep"):
            raise ValueError(f"start.optimizer={self.optimizer}: use reset or keep")
        if not self.run and (self.step, self.optimizer) != (-1, "reset"):
            raise ValueError("start.run: missing, and without it start has no meaning; set start.run=RUN")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Held-out text on which the loss is measured; it changes nothing of the training."""

    dataset: str = ""
    """Name of a dataset under the storage root that is not trained on; empty for none."""
    every_steps: int = 1000
    """Also after the last step."""
    num_batches: int = 8
    """Of train.batch_rows rows each: always the same, whatever the layout."""

    def __post_init__(self) -> None:
        if self.dataset:
            check_name(self.dataset, key="eval.dataset")
        elif (self.every_steps, self.num_batches) != (1000, 8):
            raise ValueError("eval.dataset: missing, and without it eval has no meaning; set eval.dataset=NAME")
        _at_least("eval.every_steps", self.every_steps, 1)
        _at_least("eval.num_batches", self.num_batches, 1)

    def problem_with(self, *, vocab_size: int, num_samples: int, config: RunConfig) -> str:
        """Why the dataset, of so many tokens and samples, can't serve; "" where it can."""
        if vocab_size > (rows := config.model.vocab_size):
            return f"eval.dataset={self.dataset}: has {vocab_size} tokens, and model.vocab_size={rows}; build it with the tokenizer of data"
        most = num_samples // config.train.batch_rows
        if self.num_batches > most:
            remedy = f"use {most} or less, or more text" if most else "use more text"
            return f"eval.num_batches={self.num_batches}: dataset {self.dataset} has samples for {most} batches; {remedy}"
        return ""

    def problem_with_training_on(self, config: RunConfig) -> str:
        """Why the dataset is not held out; "" where it is. None has a use that is not: the loss of what is trained on is told anyway.

        For who begins a run or changes it: one that was begun before this was refused goes on.
        """
        read = {name for stage in config.stages for name, ratio in zip(config.data.datasets, stage.ratios, strict=True) if ratio}
        if self.dataset not in read:
            return ""
        return f"eval.dataset={self.dataset}: is trained on, so its loss tells nothing of other text; build one of text that is held out"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    every_steps: int = 1000
    keep_latest: int = 3
    """Committed checkpoints to retain."""

    def __post_init__(self) -> None:
        _at_least("checkpoint.every_steps", self.every_steps, 1)
        if self.keep_latest < 2:
            raise ValueError(f"checkpoint.keep_latest={self.keep_latest}: need at least 2, so that a corrupt newest one has one before it")


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotConfig:
    """The state of training in the memory of its nodes, from which the next attempt goes on."""

    enabled: bool = True
    """Whether any are kept beside checkpoints; they take twice the size of a rank's state, one more than checkpoints take."""
    every_s: float | None = None
    """Time between two; none chooses itself, so that they take under 1 % of training's time."""
    mirror: bool = field(default=True, metadata={"omit_default": True})
    """Whether each is copied to another node of the run, from which one that replaces it goes on; they take as much memory there."""

    def __post_init__(self) -> None:
        if self.every_s is not None and not self.every_s >= 0:
            raise ValueError(f"snapshot.every_s={self.every_s}: use 0 for every step, more seconds, or leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryConfig:
    standbys: bool = field(default=True, metadata={"omit_default": True})
    """Whether a process stands by for each worker, with its imports done, so that the next attempt need not wait for them."""
    spares: int = field(default=0, metadata={"omit_default": True})
    """Free nodes that the run holds, their GPUs too, so that processes stand by there for the ranks of a node that is lost."""
    max_restarts: int = 10
    """Restarts in a row without progress (a newly committed checkpoint) before the run fails."""
    backoff_s: float = 1.0
    """Wait before the second restart in a row; doubles with each further one. The first is immediate."""
    backoff_limit_s: float = 300.0
    heartbeat_timeout_s: float = 30.0
    """A worker process, or a node's agent, that is silent this long is frozen. Much less may be a busy machine, or a compiler that holds
    Python's lock."""
    stopped_timeout_s: float = field(default=1.5, metadata=SINCE_DESIRED)
    """The same where the kernel says that the process is stopped (SIGSTOP)."""
    progress_timeout_s: float = 600.0
    """A worker that beats but has not finished a step or phase for this long hangs."""
    start_timeout_s: float = 1800.0
    """Longest time from a worker's start to its first step (loading, compiling)."""
    stop_timeout_s: float = 600.0
    """Longest time for the checkpoint of a graceful stop, and for a save to wait for the one before."""
    peer_grace_s: float = 5.0
    """How long to wait for the root cause when all that is known is that a peer vanished."""
    agent_timeout_s: float = field(default=60.0, metadata=SINCE_DESIRED)
    """For an agent's first word: the node may have no free GPU, or not enough of them."""
    kill_timeout_s: float = field(default=30.0, metadata=SINCE_DESIRED)
    """For processes to end after SIGKILL, before they are said to be stuck in the kernel: tearing down a GPU's memory takes seconds."""
    give_up_timeout_s: float = field(default=8.0, metadata=SINCE_DESIRED)
    """From the order to kill to taking the workers of a node that does not answer for gone: their writes are fenced. Of a node that
    answers, this comes after `kill_timeout_s`."""
    stack_dump_grace_s: float = field(default=1.0, metadata=SINCE_DESIRED)
    """For workers that hang to write their stacks into their logs, between the order to kill and SIGKILL; less than `give_up_timeout_s`."""
    log_upload_timeout_s: float = field(default=2.0, metadata=SINCE_DESIRED)
    """For an agent that ends to upload the rest of its workers' logs. One that was told to leave is killed after `give_up_timeout_s`."""
    gpu_release_timeout_s: float = field(default=5.0, metadata=SINCE_DESIRED)
    """For GPUs that an agent gave back to show as free: it uploads logs first, and Ray's own count lags behind. A node whose GPUs do not
    is no place for the next attempt."""
    orphan_timeout_s: float = field(default=30.0, metadata=SINCE_DESIRED)
    """For another controller to speak to an agent whose own controller stepped down, before the agent ends with its workers."""
    idle_timeout_s: float = field(default=600.0, metadata=SINCE_DESIRED)
    """An agent without workers that no controller has spoken to for this long ends."""
    step_down_timeout_s: float = field(default=2.0, metadata=SINCE_DESIRED)
    """For agents to hear that their controller steps down, before its process ends."""
    access_timeout_s: float = field(default=1800.0, metadata=SINCE_DESIRED)
    """How long the object store may refuse (credentials, a bucket that is gone) before the run fails."""
    nodes_alarm_s: float = field(default=600.0, metadata=SINCE_DESIRED)
    """A run that has waited this long for nodes raises an alarm."""
    max_cordons: int = field(default=4, metadata=SINCE_DESIRED)
    """Nodes that one run may cordon by itself; further faults of hardware are strikes only."""
    max_lost_checkpoints: int = field(default=3, metadata=SINCE_DESIRED)
    """Checkpoints lost in a row before the node that could not write its part is left."""
    on_nonfinite: Literal["skip", "rollback", "fail"] = field(default="skip", metadata=SINCE_DESIRED)
    """What follows a step whose loss or gradient norm is not finite, and whose update is withheld: skip goes on, and after more than
    `max_nonfinite` in a row does as rollback, which goes back to the newest checkpoint; fail ends the run."""
    max_nonfinite: int = field(default=3, metadata=SINCE_DESIRED)
    """Such steps in a row that skip goes on after."""

    def __post_init__(self) -> None:
        for name in ("max_restarts", "max_cordons", "max_nonfinite", "spares"):
            _at_least(f"recovery.{name}", getattr(self, name), 0)
        _at_least("recovery.max_lost_checkpoints", self.max_lost_checkpoints, 1)
        if self.on_nonfinite not in ("skip", "rollback", "fail"):
            raise ValueError(f"recovery.on_nonfinite={self.on_nonfinite}: use skip, rollback or fail")
        may_be_zero = ("backoff_s", "backoff_limit_s", "peer_grace_s", "stack_dump_grace_s")
        for name in (known.name for known in fields(self) if known.name.endswith("_s")):
            value = getattr(self, name)
            if name in may_be_zero and not value >= 0:
                raise ValueError(f"recovery.{name}={value}: must not be negative")
            if name not in may_be_zero and not value > 0:
                raise ValueError(f"recovery.{name}={value}: must be above 0 seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourcesConfig:
    device: str = "cuda"
    """cuda or cpu."""
    workers_per_node: int = 8
    """Ranks that share a node; on cuda, one GPU each."""
    preemption_grace_s: float = field(default=PREEMPTION_GRACE_S, metadata=SINCE_DESIRED)
    """How long the run may take to save and leave a node that got SIGTERM: no longer than what follows that with SIGKILL waits."""
    price_per_gpu_hour: float = field(default=0.0, metadata=SINCE_DESIRED)
    """What a GPU, or on cpu a worker, costs an hour, in whatever currency: `braid goodput` tells what was paid for. 0: it is not known."""

    def __post_init__(self) -> None:
        if not 0 <= self.price_per_gpu_hour < math.inf:
            raise ValueError(f"resources.price_per_gpu_hour={self.price_per_gpu_hour}: must be 0 or more, and finite")
        if self.device not in ("cuda", "cpu"):
            raise ValueError(f"resources.device={self.device}: use cuda or cpu")
        _at_least("resources.workers_per_node", self.workers_per_node, 1)
        if not 0 < self.preemption_grace_s < math.inf:
            raise ValueError(f"resources.preemption_grace_s={self.preemption_grace_s}: must be above 0 seconds, and finite")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    name: str
    model: ModelConfig
    data: DataConfig
    storage: StorageConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    start: StartConfig = field(default_factory=StartConfig)
    eval: EvalConfig = field(default=EvalConfig(), metadata=SINCE_DESIRED)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    snapshot: SnapshotConfig = field(default=SnapshotConfig(), metadata={"omit_default": True})
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    alerts: AlertsConfig = field(default=AlertsConfig(), metadata=SINCE_DESIRED)
    metrics: MetricsConfig = field(default=MetricsConfig(), metadata=SINCE_DESIRED)

    def __post_init__(self) -> None:
        if not RUN_NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit")
        if self.start.run == self.name:
            raise ValueError(f"start.run={self.start.run}: is this run itself; name another, or give this one another name")
        validate_layout(self.model, self.parallel)
        validate_groups(model_parameters(self.model), self.optimizer)
        self._check_stages()
        validate_schedule(self.optimizer, num_steps=self.train.num_steps, tokens_per_step=self.tokens_per_step)
        if self.model.gdn_backend in ("fla", "triton") and self.resources.device == "cpu":
            raise ValueError(f"model.gdn_backend={self.model.gdn_backend}: needs CUDA, and resources.device=cpu; use auto or torch")
        world_size, per_node = self.parallel.world_size, self.resources.workers_per_node
        if world_size > per_node and world_size % per_node:
            raise ValueError(
                f"resources.workers_per_node={per_node}: {world_size} workers do not fill whole nodes; "
                f"use a divisor of {world_size} or change the layout"
            )

    def _check_stages(self) -> None:
        if self.eval.dataset and self.train.batch_rows % (rows := self.parallel.dp * self.train.micro_rows):
            raise ValueError(f"train.batch_rows={self.train.batch_rows}: eval.dataset is read in such batches; use a multiple of {rows}")
        for number, stage in enumerate(self.stages, start=1):
            here = f"data.phases: phase {number}: batch_rows" if self.data.phases else "train.batch_rows"
            rows_at_once = self.parallel.dp * stage.micro_rows
            if stage.batch_rows % rows_at_once:
                raise ValueError(
                    f"{here}={stage.batch_rows}: not divisible by parallel.dp_replicate × parallel.dp_shard × train.micro_rows "
                    f"= {self.parallel.dp_replicate} × {self.parallel.dp_shard} × {stage.micro_rows}; use a multiple of {rows_at_once}"
                )
            if stage.first_step > self.train.num_steps:
                raise ValueError(
                    f"data.phases: phase {number} begins at step {stage.first_step}, behind the last; "
                    f"train.num_steps={self.train.num_steps}: train longer, or shorten the phases before it"
                )
        if len({stage.tokens_per_step for stage in self.stages}) > 1:
            for name in ("warmup_tokens", "decay_tokens"):
                if tokens := getattr(self.optimizer, name):
                    remedy = f"use optimizer.{name.replace('tokens', 'steps')}"
                    raise ValueError(f"optimizer.{name}={tokens}: the steps of data.phases differ in tokens; {remedy}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What the steps consist of, from the first to the last."""
        return stages_of(self.data, batch_rows=self.train.batch_rows, micro_rows=self.train.micro_rows)

    def stage_at(self, step: int) -> Stage:
        """What a step consists of."""
        return stage_at(self.stages, step)

    def tokens_until(self, step: int) -> int:
        """Input tokens of all steps up to this one."""
        return tokens_until(self.stages, step)

    @property
    def tokens_per_step(self) -> int:
        """Of the first step; phases may change it."""
        return self.stages[0].tokens_per_step

    @property
    def num_nodes(self) -> int:
        return -(-self.parallel.world_size // self.resources.workers_per_node)


def training_digest(config: RunConfig) -> str:
    """Digest of what decides the numbers of a run: model, data, optimizer, start, batch and seed; not its length, layout or machines.

    Nor what becomes of rows that can't be read: a run that met one may go on without it, and its ledger says so.
    """
    phases = tuple(replace(phase, micro_rows=None) for phase in config.data.phases)
    data = replace(config.data, phases=phases, cache_limit=CACHE_LIMIT, on_corrupt="fail")
    decisive = (config.model, data, config.optimizer, config.start, config.train.batch_rows, config.train.seed)
    return codec.digest((*decisive, LABELS_WITHIN) if config.data.document_masking else decisive)
