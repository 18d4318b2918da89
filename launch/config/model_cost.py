"""What a model holds and costs, before anybody trains it. Pure."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from launch.config.node_memory import node_memory
from model.compute import ComputeConfig
from model.config import ModelConfig, validate_layout
from model.costs.flops import flops_per_token
from model.costs.memory import predict_memory
from model.costs.parts import params_by_part
from model.optim.config import OptimizerConfig
from model.optim.groups import validate_groups
from model.parallel.config import ParallelConfig
from model.parameters import model_parameters

Mode = Literal["none", "selective", "full", "memory_budget"]
"""A way of activation checkpointing."""
COMPARED: tuple[Mode, ...] = ("none", "selective", "full")
"""The ways that are always told, beside the chosen one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLength:
    """Section `data` of a ModelPlan."""

    seq_len: int = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsAtOnce:
    """Section `train` of a ModelPlan."""

    micro_rows: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPlan:
    """The keys of a recipe that decide what a model costs, checked as in a RunConfig."""

    model: ModelConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: RowLength = field(default_factory=RowLength)
    train: RowsAtOnce = field(default_factory=RowsAtOnce)

    def __post_init__(self) -> None:
        validate_layout(self.model, self.parallel)
        validate_groups(model_parameters(self.model), self.optimizer)
        for key, value in (("data.seq_len", self.data.seq_len), ("train.micro_rows", self.train.micro_rows)):
            if value < 1:
                raise ValueError(f"{key}={value}: must be positive; use 1 or more")


def cost_of(plan: ModelPlan) -> dict[str, Any]:
    """JSON-ready: parameters by part, FLOPs per token, bytes of each GPU by part and activation checkpointing, and of its node's memory."""
    parts = params_by_part(plan.model)
    chosen = plan.compute.activation_checkpointing
    by_mode = {mode: _bytes_per_gpu(plan, mode) for mode in dict.fromkeys((*COMPARED, chosen))}
    state_bytes = by_mode[chosen]["parameters"] + by_mode[chosen]["optimizer"]
    kept = node_memory(state_bytes, num_ranks=1, num_nodes=2, snapshots=True, mirror=True)
    return {
        "parameters": parts | {"total": sum(parts.values())},
        "flops_per_token": flops_per_token(plan.model, plan.data.seq_len),
        "seq_len": plan.data.seq_len,
        "micro_rows": plan.train.micro_rows,
        "layout": str(plan.parallel),
        "num_gpus": plan.parallel.world_size,
        "optimizer": plan.optimizer.name,
        "activation_checkpointing": chosen,
        "bytes_per_gpu": by_mode[chosen],
        "bytes_per_gpu_by_checkpointing": by_mode,
        "node_bytes_per_gpu": {"snapshots": kept.own, "mirror": kept.mirrored},
    }


def _bytes_per_gpu(plan: ModelPlan, mode: Mode) -> dict[str, int]:
    compute = replace(plan.compute, activation_checkpointing=mode)
    memory = predict_memory(plan.model, plan.parallel, compute, plan.optimizer, micro_rows=plan.train.micro_rows, seq_len=plan.data.seq_len)
    return asdict(memory) | {"total": memory.total}
