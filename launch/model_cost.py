"""What `braid model` tells of a model before anybody trains it. Pure."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from launch.budget import human
from model.config import ComputeConfig, ModelConfig, OptimizerConfig, ParallelConfig, validate_layout
from model.groups import validate_groups
from model.memory import predict_memory
from model.parameters import flops_per_token, parameter_shapes, params_by_part


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLength:
    seq_len: int = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsAtOnce:
    micro_rows: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPlan:
    """Those keys of a recipe that decide what a model costs."""

    model: ModelConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: RowLength = field(default_factory=RowLength)
    train: RowsAtOnce = field(default_factory=RowsAtOnce)

    def __post_init__(self) -> None:
        validate_layout(self.model, self.parallel)
        validate_groups(parameter_shapes(self.model), self.optimizer)
        for key, value in (("data.seq_len", self.data.seq_len), ("train.micro_rows", self.train.micro_rows)):
            if value < 1:
                raise ValueError(f"{key}={value}: must be positive; use 1 or more")


def cost_of(plan: ModelPlan) -> dict[str, Any]:
    """JSON-ready."""
    parts = params_by_part(plan.model)
    memory = predict_memory(
        plan.model, plan.parallel, plan.compute, plan.optimizer, micro_rows=plan.train.micro_rows, seq_len=plan.data.seq_len
    )
    return {
        "parameters": parts | {"total": sum(parts.values())},
        "flops_per_token": flops_per_token(plan.model, plan.data.seq_len),
        "seq_len": plan.data.seq_len,
        "micro_rows": plan.train.micro_rows,
        "layout": str(plan.parallel),
        "num_gpus": plan.parallel.world_size,
        "activation_checkpointing": plan.compute.activation_checkpointing,
        "bytes_per_gpu": asdict(memory) | {"total": memory.total},
    }


def cost_view(cost: dict[str, Any]) -> RenderableType:
    """For people."""
    rows = f"{cost['micro_rows']} × {cost['seq_len']:,} tokens at once"
    return Group(
        _table("parameters", cost["parameters"], lambda number: f"{number:,}"),
        f"\nFLOPs per token of training, at {cost['seq_len']:,} tokens: {human(cost['flops_per_token']).rstrip()}\n",
        _table(f"memory of each GPU: {cost['layout']}, {rows}", cost["bytes_per_gpu"], _gib),
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.2f} GiB"


def _table(title: str, parts: dict[str, int], show: Any) -> Table:
    table = Table(title, "", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.columns[1].justify = "right"
    for name, number in parts.items():
        table.add_row(name, show(number), style="bold" if name == "total" else "")
    return table
