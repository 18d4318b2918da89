"""Looks at runs, for those who judge them: a configuration, and what was seen of it again and again."""

from __future__ import annotations

from collections.abc import Iterable

from data_pipeline.config import DataConfig, StorageConfig
from model.config import ModelConfig
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from model.train.metrics import StepMetrics
from orchestrator.alerts_config import AlertsConfig
from orchestrator.config import CheckpointConfig, ResourcesConfig, RunConfig, TrainConfig
from orchestrator.control.cluster import Observation
from orchestrator.control.state import RunState
from orchestrator.health.classes import TimeClass
from orchestrator.health.conditions import Condition, Look, conditions
from orchestrator.health.recent import Recent, after_look
from orchestrator.health.totals import Totals
from tests.orchestrator.control.stories import agent, rank, seen

TOKENS_PER_STEP = 16


def config_of(alerts: AlertsConfig = AlertsConfig(), *, every_steps: int = 1000, root: str = "/nowhere") -> RunConfig:  # noqa: B008
    return RunConfig(
        name="first",
        model=ModelConfig(vocab_size=64, d_model=8, num_layers=1, num_heads=1, head_dim=8, gdn_key_dim=8, gdn_value_dim=8, ffn_width=8),
        data=DataConfig(seq_len=8),
        storage=StorageConfig(root=root),
        optimizer=OptimizerConfig(),
        train=TrainConfig(num_steps=100_000, batch_rows=2, micro_rows=1),
        parallel=ParallelConfig(dp_shard=2),
        checkpoint=CheckpointConfig(every_steps=every_steps),
        resources=ResourcesConfig(device="cpu", workers_per_node=1),
        alerts=alerts,
    )


def trained(
    step: int, *, loss: float = 2.0, grad_norm: float = 1.0, step_s: float = 1.0, quiet_s: float = 0.0, attempt: int = 1
) -> Observation:
    """Two workers that have finished a step `quiet_s` ago."""
    metrics = StepMetrics(loss=loss, grad_norm=grad_norm, tokens=TOKENS_PER_STEP)
    known = {"step": step, "metrics": metrics, "tokens_per_s": TOKENS_PER_STEP / step_s, "last_progress_s": quiet_s}
    return seen(agent("a", rank(0, **known), attempt=attempt), agent("b", rank(1, **known), attempt=attempt))


def remembered(looks: Iterable[Observation], config: RunConfig, attempt: int = 1, since: Recent = Recent()) -> Recent:  # noqa: B008
    for one in looks:
        since = after_look(since, config, attempt, one)
    return since


def totals(wall_s: float = 100.0, **classes_s: float) -> Totals:
    """Where a run's time went, of two GPUs; what is not named took none."""
    seconds = {one: classes_s.get(one.value, 0.0) for one in TimeClass}
    gpu_s = {one: 2 * took_s for one, took_s in seconds.items()}
    return Totals(wall_s=wall_s, classes_s=seconds, gpu_s=gpu_s, missing_gpu_s=0.0, spare_gpu_s=3.0, losses=())


def holding(
    state: RunState, look: Observation | None = None, *, config: RunConfig | None = None, now_s: float = 100.0, **known: object
) -> list[Condition]:
    """What there is to say of a run."""
    whole = Look(run="first", config=config or config_of(), state=state, seen=look, now_s=now_s, **known)  # type: ignore[arg-type]
    return list(conditions(whole).holding)
