"""What a model holds and costs, for people. Pure."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.units import human, memory_unit

MEANINGS = {
    "parameters": "this rank's shard, in fp32",
    "gradients": "this rank's shard, in fp32",
    "optimizer": "its state of the shard",
    "activations": "kept from forward to backward",
    "unsharded": "gathered weights, gradients in flight",
    "working": "a loss chunk, or a block's backward",
}


def cost_view(cost: dict[str, Any]) -> RenderableType:
    """`cost` is what launch.config.model_cost.cost_of returns."""
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
        _of_nodes(cost["node_bytes_per_gpu"]),
    )


def _of_nodes(kept: dict[str, int]) -> str:
    snapshots, mirror = human(kept["snapshots"]), human(kept["mirror"])
    return f"its node's memory keeps two snapshots of it: {snapshots}B, and {mirror}B for a GPU of another node (snapshot.mirror)"


def _table(title: str, numbers: Sequence[str]) -> Table:
    table = Table(title, *numbers, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _add_row(table: Table, part: str, *cells: str) -> None:
    table.add_row(part, *cells, style="bold" if part == "total" else "")
