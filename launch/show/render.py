"""Status, runs, checkpoints and checks as rich tables. Pure: values in, something to print out."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.machine.checks import Check
from launch.status import ENDED, Status
from launch.units import human
from model.train.metrics import status_words

COLOURS = {
    "queued": "yellow", "starting": "cyan", "running": "green", "recovering": "magenta", "stopping": "yellow",
    "finished": "bold green", "failed": "bold red", "stopped": "yellow",
}  # fmt: skip
LEFT_OUT = {"unread_rows": "could not be read", "repetitive_rows": "left out as repetitive"}
MACHINE_COLOURS = {"ok": "green", "strikes": "yellow", "cordoned": "bold red"}
CHECKPOINT_COLOURS = {"committed": "", "verified": "green", "damaged": "bold red", "not finite": "bold red"}


def status_view(status: Status) -> RenderableType:
    """Everything that is known of a run."""
    parts: list[RenderableType] = [
        headline(status),
        *(Text(f"! {line}", style="bold red") for line in status["alerts"]),
        progress_line(status),
    ]
    if status["data"]:
        parts.append(Text(data_line(status["data"]), style="dim"))
    if status["reason"]:
        parts.append(Text(status["reason"], style="italic"))
    if status["workers"]:
        parts.append(_workers(status["workers"]))
        if len(status["workers"]) < status["num_workers"]:
            parts.append(Text(_which_workers(status), style="dim"))
    parts.extend(Text(f"cordoned: {machine}: {reason}", style="yellow") for machine, reason in status["cordoned"].items())
    if status["strikes"]:
        held = ", ".join(f"{machine} {number}" for machine, number in status["strikes"].items())
        parts.append(Text(f"strikes: {held}", style="yellow"))
    if (earlier := status["num_incidents"] - len(status["incidents"])) > 0:
        parts.append(Text(f"{earlier:,} earlier incidents, and the newest:", style="dim"))
    if status["incidents"]:
        parts.append(incidents_view(status["incidents"]))
    parts.extend(Text(line, style="yellow") for line in status["rejected_checkpoints"])
    if not status["live"] and status["state"] not in ENDED:
        parts.append(Text("from the run's journal", style="dim"))
    return Group(*parts)


def headline(status: Status) -> Text:
    text = Text.assemble((status["run"], "bold"), "  ", (status["state"], COLOURS.get(status["state"], "")))
    text.append(f"  attempt {status['attempt']}, {status['restarts']} restarts, last checkpoint at step {status['last_committed_step']}")
    return text


def progress_line(status: Status) -> Table:
    """Bar, step, loss, tokens and speed on one line."""
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=status["num_steps"], completed=status["step"], width=30)
    line.add_row(bar, f"step {status['step']}/{status['num_steps']}", *_facts(status))
    return line


def _facts(status: Status) -> list[str]:
    facts = [*status_words(status), f"{status['tokens']:,} tokens"]
    if status["tokens_per_s"] is not None:
        facts.append(f"{status['tokens_per_s']:,.0f} tokens/s")
    if status["skipped_updates"]:
        facts.append(skipped(status))
    return facts


def data_line(data: dict[str, Any]) -> str:
    """What this attempt's data cost, over all workers."""
    parts = [f"data: {human(data['fetched_bytes'])}B fetched for {human(data['used_bytes'])}B used"]
    parts.append(f"up to {data['wait_share']:.1%} of the step time waited for")
    parts += [f"{data[name]:,} rows {why}" for name, why in LEFT_OUT.items() if data[name]]
    return ", ".join(parts)


def skipped(status: Status) -> str:
    """How many updates of this attempt were left out because of a spike, in words."""
    number = status["skipped_updates"]
    return f"{number:,} update{'s' * (number != 1)} skipped"


def _workers(workers: Sequence[dict[str, Any]]) -> Table:
    table = _table("rank", "node", "pid", "phase", "step", "last progress")
    for worker in workers:
        table.add_row(
            str(worker["rank"]),
            short_node(worker["node"]),
            str(worker["pid"]),
            worker["phase"],
            str(worker["step"]),
            f"{worker['last_progress_s']:.1f} s ago",
        )
    return table


def _which_workers(status: Status) -> str:
    shown = status["workers"]
    return f"ranks {shown[0]['rank']:,} … {shown[-1]['rank']:,} of {status['num_workers']:,} workers; others with --workers PAGE"


def incidents_view(incidents: Sequence[dict[str, Any]]) -> RenderableType:
    """A table of numbers, and below it what happened in words."""
    table = _table("attempt", "cause", "node", "rank", "step", "noticed", "recovered", "from", "replayed", gap=1)
    for one in incidents:
        table.add_row(
            str(one["attempt"]), one["cause"], short_node(one["node"]), or_dash(one["rank"]), str(one["at_step"]),
            _seconds(one["detected_after_s"]), _seconds(one["recovered_after_s"]), or_dash(one["resumed_from_step"]),
            or_dash(one["steps_replayed"]),
        )  # fmt: skip
    return Group(table, *(Text(f"attempt {one['attempt']}: {one['detail']}{_answer_to(one)}", style="dim") for one in incidents))


def _answer_to(incident: dict[str, Any]) -> str:
    """Where the run went on, and with the state from where."""
    if incident["recovered_after_s"] is None or incident["resumed_from_step"] is None:
        return ""
    left = incident.get("left")
    where = f"without {', '.join(left)}" if left else "on the same nodes"
    return f"; went on from {incident.get('source', 'store')}, {where}"


def runs_table(runs: Sequence[Status]) -> Table:
    """One line each: what room the rest leaves has the beginning of the reason, which `braid status` tells in full."""
    table = _table("run", "state", "step", "loss", "restarts", "reason")
    for column in table.columns[:-1]:
        column.no_wrap = True
    table.columns[-1].header = Text("reason", no_wrap=True, overflow="ellipsis")
    for run in runs:
        state = Text(run["state"], style=COLOURS.get(run["state"], ""))
        loss = "–" if run["loss"] is None else f"{run['loss']:.4f}"
        reason = Text(run["reason"], no_wrap=True, overflow="ellipsis")
        table.add_row(run["run"], state, f"{run['step']}/{run['num_steps']}", loss, str(run["restarts"]), reason)
    return table


def checkpoints_table(checkpoints: Sequence[dict[str, Any]]) -> Table:
    table = _table("step", "attempt", "files", "size", "layout", "written (UTC)", "state")
    for one in checkpoints:
        written = "–" if one["created_at_s"] is None else utc(one["created_at_s"])
        state = Text(one["state"], style=CHECKPOINT_COLOURS[one["state"]])
        table.add_row(
            str(one["step"]), str(one["attempt"]), str(one["files"]), f"{human(one['size_bytes'])}B", one["layout"], written, state
        )
    return table


def machines_table(machines: Sequence[dict[str, Any]]) -> RenderableType:
    """A line for each machine, and below the newest faults that are held against them."""
    table = _table("machine", "state", "present", "strikes", "cordoned by", "since (UTC)", "reason")
    for column in table.columns[:-1]:
        column.no_wrap = True
    for one in machines:
        cordon = one["cordoned"]
        because = (cordon["by"], utc(cordon["at_s"]), cordon["reason"]) if cordon else ("–", "–", "")
        state = Text(one["state"], style=MACHINE_COLOURS[one["state"]])
        table.add_row(one["machine"], state, "yes" if one["in_cluster"] else "no", str(one["strikes"]), *because)
    return Group(table, *(Text(line, style="dim") for one in machines for line in _findings(one)))


def _findings(machine: dict[str, Any]) -> list[str]:
    return [
        f"{machine['machine']}: {utc(one['at_s'])}, run {one['run']}, attempt {one['attempt']}: {one['cause']}: {one['detail']}"
        for one in machine["findings"]
    ]


def checks_table(checks: Sequence[Check]) -> Table:
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = _table("", "check", "found", "what to do")
    for check in checks:
        table.add_row(Text(check.level, style=colours[check.level]), check.name, check.found, check.remedy)
    return table


def short_node(node: str | None) -> str:
    """Ray's node ids are 56 hex digits; eight tell them apart."""
    return "–" if node is None else node[:8] if len(node) > 24 else node


def _table(*columns: str, gap: int = 2) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold dim", padding=(0, gap, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def utc(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def or_dash(value: int | None) -> str:
    return "–" if value is None else str(value)
