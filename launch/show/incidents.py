"""Incidents for people: a table of all, and one with its hops as bars and what its workers left written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.show.render import or_dash, short_node, utc

BAR_WIDTH = 40
FRAMES_SHOWN = 12
Incident = dict[str, Any]


def incidents_table(incidents: Sequence[Incident]) -> RenderableType:
    """A line for each, the oldest first."""
    if not incidents:
        return Text("no incident")
    table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, 2, 0, 0))
    for column in ("", "when (UTC)", "cause", "machine", "rank", "step", "stood still", "trained again", "went on from"):
        table.add_column(column, overflow="fold")
    for one in incidents:
        table.add_row(
            str(one["number"]), utc(one["at_s"]), one["cause"], one["machine"] or short_node(one["node"]), or_dash(one["rank"]),
            str(one["at_step"]), _seconds(one["stood_still_s"]), or_dash(one["steps_replayed"]), one["source"] or "–",
        )  # fmt: skip
    return table


def incident_view(one: Incident) -> RenderableType:
    """All that is known of one."""
    parts: list[RenderableType] = [_head(one), Text(), _waterfall(one["hops"]), Text(), _facts(one)]
    evidence = one["evidence"]
    if evidence["stacks"]:
        parts += [Text(), _title("where the workers stood"), *_stacks(evidence)]
    if evidence["first_error"]:
        parts += [Text(), _title(f"first error of rank {evidence['rank']}"), *map(Text, evidence["first_error"])]
    elif evidence["last_lines"]:
        parts += [Text(), _title(f"last lines of rank {evidence['rank']}"), *map(Text, evidence["last_lines"])]
    elif not evidence["has_log"]:
        parts += [Text(), Text(f"the log of rank {evidence['rank']} is not on the store, nor on this machine", style="dim")]
    return Group(*parts)


def _head(one: Incident) -> Text:
    where = "".join(f" {name} {one[key]}" for name, key in (("on", "machine"), ("rank", "rank")) if one[key] is not None)
    head = Text.assemble((f"incident {one['number']}: {one['cause']}", "bold red"), f"{where}, {utc(one['at_s'])} UTC, after step ")
    head.append(f"{one['at_step']}, attempt {one['attempt']}\n{one['detail']}")
    for other in one["also"]:
        head.append(f"\nand {other['cause']} on {other['machine'] or short_node(other['node'])}: {other['detail']}")
    return head


def _waterfall(hops: Sequence[dict[str, Any]]) -> Table:
    """Each hop where it lies in the whole, in milliseconds."""
    table = Table.grid(padding=(0, 2))
    total_s = max((hop["begin_s"] + hop["seconds"] for hop in hops), default=0.0) or 1.0
    for hop in hops:
        begin = min(BAR_WIDTH - 1, round(BAR_WIDTH * hop["begin_s"] / total_s))
        end = max(begin + 1, round(BAR_WIDTH * (hop["begin_s"] + hop["seconds"]) / total_s))
        bar = Text(" " * begin + "━" * (end - begin), style="red", no_wrap=True)
        table.add_row(hop["name"], Text(f"{hop['seconds'] * 1e3:,.0f} ms", justify="right"), bar)
    return table


def _facts(one: Incident) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in _told(one):
        table.add_row(Text(name, style="dim"), text)
    return table


def _told(one: Incident) -> Iterator[tuple[str, str]]:
    yield "seen first by", one["seen_by"]
    if one["stood_still_s"] is None:
        yield "recovery", "not recovered from"
    else:
        where = f"without {', '.join(one['left'])}" if one["left"] else "on the same nodes"
        yield "recovery", f"from {one['source']}, step {one['resumed_from_step']}, {where}"
        again = f"{one['steps_replayed']} step{'s' * (one['steps_replayed'] != 1)} trained again"
        yield "cost", f"{one['stood_still_s']:.1f} s without a step, {one['gpu_seconds']:,.0f} GPU-seconds; {again}"
    if one["strikes"]:
        yield "strikes", ", ".join(f"{number} against {machine}" for machine, number in one["strikes"].items())
    if one["cordons"]:
        yield "cordoned", ", ".join(one["cordons"])
    yield "to do", one["remedy"]


def _stacks(evidence: dict[str, Any]) -> Iterator[Text]:
    if evidence["missing"]:
        yield Text(evidence["missing"], style="bold")
    for group in evidence["stacks"]:
        yield Text(f"{group['words']}: {group['where']}")
        yield from (Text(f"    {frame}", style="dim") for frame in group["frames"][:FRAMES_SHOWN])


def _title(text: str) -> Text:
    return Text(text, style="bold dim")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"
