"""Where a run's time went, as a table for a terminal. Pure."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

COLOURS = {
    "queued": "#9aa0a6", "starting": "#5bc0de", "loading_memory": "#3a8fd9", "loading_other_memory": "#2f6fb5",
    "loading_store": "#24508c", "warming": "#b39ddb", "productive": "#2e9e4f", "slow": "#a8c64a", "data_wait": "#e6a817",
    "checkpoint": "#17a2a2", "eval": "#7fc8c8", "skipped": "#c9a27e", "lost": "#d9342b", "detecting": "#f06595",
    "deciding": "#c2258a", "waiting_for_nodes": "#8e44ad", "store_wait": "#a0522d", "stopped": "#5f6368",
    "controller_away": "#37474f", "unknown": "#bdbdbd",
}  # fmt: skip
"""Of the classes of time, here and in pictures."""
BAR = 15
MANY = 10
"""Rows of failures that are shown."""


def goodput_view(answer: dict[str, Any]) -> RenderableType:
    """`answer` is what launch.runs.goodput.answer returns."""
    parts: list[RenderableType] = [_headline(answer), _strip(answer["timeline"]), _classes(answer)]
    if answer["losses"]:
        parts.append(_losses(answer["losses"]))
    return Group(*parts)


def span(took_s: float) -> str:
    """A length of time with three digits or so: 0.12 s, 12.3 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    if took_s < 60:
        return f"{took_s:.2f} s" if took_s < 10 else f"{took_s:.1f} s"
    if took_s < 3600:
        return f"{int(took_s // 60)} min {int(took_s % 60)} s"
    if took_s < 86400:
        return f"{int(took_s // 3600)} h {int(took_s % 3600 // 60)} min"
    return f"{int(took_s // 86400)} d {int(took_s % 86400 // 3600)} h"


def words(name: str) -> str:
    """A class of time as people read it."""
    return name.replace("_", " ")


def percent(part: float | None) -> str:
    return "–" if part is None else f"{part:.1%}"


def ratios(answer: dict[str, Any]) -> str:
    """What the whole comes to, in one line."""
    told = [f"goodput {percent(answer['goodput'])}", f"ETTR {percent(answer['ettr'])}"]
    if answer["mfu"] is not None:
        told.append(f"MFU of productive time {percent(answer['mfu'])}")
    if answer["cost"] is not None:
        told.append(f"{answer['cost']['productive']:,.2f} of {answer['cost']['total']:,.2f} paid for was productive")
    return ", ".join(told)


def _headline(answer: dict[str, Any]) -> Text:
    return Text.assemble((answer["run"], "bold"), f"  {answer['state']}, {span(answer['wall_s'])}: ", (ratios(answer), "bold"))


def _strip(timeline: Sequence[str]) -> Text:
    """The run from left to right: of each part what most of it was."""
    return Text.assemble(*(("█" * len([*group]), COLOURS[name]) for name, group in groupby(timeline)))


def _classes(answer: dict[str, Any]) -> Table:
    table = Table("", "time", "share", "GPU-hours", "", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in table.columns[1:4]:
        column.justify = "right"
    wall_s = answer["wall_s"] or 1.0
    for name, took_s in answer["classes"].items():
        if took_s:
            share, gpu_hours = took_s / wall_s, answer["gpu_seconds"][name] / 3600
            bar = Text("█" * round(share * BAR) or "▏", style=COLOURS[name])
            table.add_row(Text(words(name), style=COLOURS[name]), span(took_s), percent(share), f"{gpu_hours:,.2f}", bar)
    together_s = sum(answer["classes"].values())
    table.add_row(
        "together", span(together_s), percent(together_s / wall_s), f"{sum(answer['gpu_seconds'].values()) / 3600:,.2f}", style="bold"
    )
    for name, words_of in (("missing_gpu_s", "missing GPUs"), ("spare_gpu_s", "spare GPUs")):
        if answer[name]:
            table.add_row(words_of, "", "", f"{answer[name] / 3600:,.2f}", style="dim")
    return table


def _losses(losses: Sequence[dict[str, Any]]) -> Table:
    """By cause and machine, the dearest first."""
    table = Table("lost to", "machine", "times", "time", "of it discarded", "GPU-hours", box=None, pad_edge=False, header_style="bold")
    table.padding = (0, 2, 0, 0)
    for column in table.columns[2:]:
        column.justify = "right"

    def place(loss: dict[str, Any]) -> tuple[str, str]:
        return loss["cause"], loss["machine"] or "–"

    groups = [(key, [*group]) for key, group in groupby(sorted(losses, key=place), key=place)]
    groups.sort(key=lambda group: -sum(loss["lost_s"] for loss in group[1]))
    for (cause, machine), its in groups[:MANY]:
        took_s, discarded_s, gpu_s = (sum(loss[name] for loss in its) for name in ("lost_s", "discarded_s", "lost_gpu_s"))
        table.add_row(words(cause), machine, f"{len(its)}", span(took_s), span(discarded_s), f"{gpu_s / 3600:,.2f}")
    if len(groups) > MANY:
        table.add_row(f"and {len(groups) - MANY} more")
    return table
