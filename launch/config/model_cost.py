"""What `braid model` tells of a model before anybody trains it. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.config.budget import human, memory_unit
from model.compute import ComputeConfig
from model.config import ModelConfig, validate_layout
from model.costs.flops import flops_per_token
from model.costs.memory import predict_memory
from model.costs.parts import params_by_part
from model.optim.config import OptimizerConfig
from model.optim.groups import validate_groups
from model.parallel.config import ParallelConfig
from model.parameters import parameter_shapes

Mode = Literal["none", "selective", "full", "memory_budget"]
"""Of activation checkpointing."""
COMPARED: tuple[Mode, ...] = ("none", "selective", "full")
MEANINGS = {
    "parameters": "this rank's shard, in fp32",
    "gradients": "this rank's shard, in fp32",
    "optimizer": "its state of the shard",
    "activations": "kept from forward to backward",
    "unsharded": "gathered weights, gradients in flight",
    "working": "a loss chunk, or a block's backward",
}


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
    chosen = plan.compute.activation_checkpointing
    by_mode = {mode: _bytes_per_gpu(plan, mode) for mode in dict.fromkeys((*COMPARED, chosen))}
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
    }


def _bytes_per_gpu(plan: ModelPlan, mode: Mode) -> dict[str, int]:
    compute = replace(plan.compute, activation_checkpointing=mode)
    memory = predict_memory(plan.model, plan.parallel, compute, plan.optimizer, micro_rows=plan.train.micro_rows, seq_len=plan.data.seq_len)
    return asdict(memory) | {"total": memory.total}


def cost_view(cost: dict[str, Any]) -> RenderableType:
    """For people."""
    by_mode = cost["bytes_per_gpu_by_checkpointing"]
    unit, its_bytes = memory_unit(max(memory["total"] for memory in by_mode.values()))
    parameters = _table("parameters", [""])
    for part, number in cost["parameters"].items():
        _add_row(parameters, part, f"{number:,}")
    memory = _table("", [*by_mode, "what it is"])
    for part in cost["bytes_per_gpu"]:
        sizes = [f"{of_mode[part] / its_bytes:,.2f}" for of_mode in by_mode.values()]
        _add_row(memory, part, *sizes, MEANINGS.get(part, ""))
    memory.columns[-1].justify = "left"
    rows = f"{cost['micro_rows']} × {cost['seq_len']:,} tokens at once"
    return Group(
        parameters,
        f"\nFLOPs per token of training, at {cost['seq_len']:,} tokens: {human(cost['flops_per_token']).rstrip()}\n",
        Text(f"memory of each GPU: {cost['layout']}, {rows}, {cost['optimizer']}, bf16", style="bold"),
        f"in {unit}, by activation checkpointing:\n",
        memory,
        f"\nchoose with compute.activation_checkpointing=…; here: {cost['activation_checkpointing']}",
    )


def _table(title: str, numbers: Sequence[str]) -> Table:
    table = Table(title, *numbers, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _add_row(table: Table, part: str, *cells: str) -> None:
    table.add_row(part, *cells, style="bold" if part == "total" else "")
