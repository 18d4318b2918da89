"""The first screen of a run, as a terminal shows it: what `braid ui` has on top of a run's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.show.render import COLOURS, progress_line
from launch.units import duration

MARKS = {"good": ("●", "green"), "watch": ("▲", "yellow"), "bad": ("✖", "bold red"), "unknown": ("?", "dim")}
"""By verdict: told by shape as well as by colour."""


def top_view(look: Mapping[str, Any], *, trouble: str = "") -> RenderableType:
    """What `RunPage.look` tells; with `trouble`, why it could not be told anew since."""
    status = look["status"]
    head = Text.assemble((status["run"], "bold"), "  ", (status["state"], COLOURS.get(status["state"], "")))
    if status["reason"]:
        head.append(f"  {status['reason']}")
    parts: list[RenderableType] = [head]
    if status["state"] != "weights":
        parts.append(progress_line(status))
    parts.append(Text(_since(look), style="dim"))
    parts += [Text(f"! {line}", style="bold red") for line in status["alerts"]]
    if trouble:
        parts.append(Text(f"! {trouble}", style="bold red"))
    command = look["command"]
    return Group(*parts, Text(), _facts(look["glance"]), Text(), Text(command["why"], style="dim"), Text(f"  {command['command']}"))


def _since(look: Mapping[str, Any]) -> str:
    status, left_s = look["status"], look["left_s"]
    told = "live, from its controller" if status["live"] else f"from the store, written {duration(look['written_s_ago'])} ago"
    return told + (f"; about {duration(left_s)} left" if left_s is not None else "")


def _facts(facts: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for fact in facts:
        mark, style = MARKS[fact["verdict"]]
        text = fact["text"].replace("{age}", duration(fact["age_s"])) if fact["age_s"] is not None else fact["text"]
        table.add_row(Text(mark, style=style), Text(fact["label"], style="bold"), Text(text))
    return table
