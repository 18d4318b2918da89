"""Watching a run: the same view again and again, until it has ended or the person has seen enough."""

import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from launch.show.answer_json import answer_json
from launch.show.render import skipped, status_view
from launch.status import Status
from model.train.metrics import status_words

_LINE_EVERY_S = 10.0


def warned(seen: Iterator[Status], tell: Callable[[str], None]) -> Iterator[Status]:
    """Passes on what it sees, and tells each alert, and each checkpoint that was refused or passed over, once when it appears."""
    alerts, refused = [], []
    for status in seen:
        for line in status["alerts"]:
            if line not in alerts:
                tell(f"ALERT: {line}")
        for line in status["rejected_checkpoints"]:
            if line not in refused:
                tell(f"warning: {line}")
        alerts, refused = status["alerts"], status["rejected_checkpoints"]
        yield status


def show(seen: Iterator[Status], console: Console, *, clock: Callable[[], float] = time.monotonic) -> Status:
    """Shows what comes, in place on a terminal and as lines elsewhere; returns the last."""
    return _show_in_place(seen, console) if console.is_terminal else _show_lines(seen, console, clock)


def show_json(seen: Iterator[Status], tell: Callable[[str], None]) -> Status:
    """Tells what comes as JSON, one line each; returns the last."""
    status: Status = {}
    for status in seen:
        tell(answer_json(status))
    return status


def _show_in_place(seen: Iterator[Status], console: Console) -> Status:
    status: Status = {}
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for status in seen:
            live.update(status_view(status), refresh=True)
    return status


def _show_lines(seen: Iterator[Status], console: Console, clock: Callable[[], float]) -> Status:
    """A line whenever the state changes, and one now and then between."""
    status: Status = {}
    told, told_at_s = None, 0.0
    for status in seen:
        key = (status["state"], status["attempt"], len(status["incidents"]))
        now_s = clock()
        if key != told or now_s - told_at_s >= _LINE_EVERY_S:
            told, told_at_s = key, now_s
            console.print(status_line(status), soft_wrap=True, highlight=False)
    return status


def status_line(status: Status) -> str:
    """A run in one line, for where there is no terminal."""
    measured = "".join(f", {words}" for words in status_words(status))
    reason = f" ({status['reason']})" if status["reason"] else ""
    spikes = f", {skipped(status)}" if status["skipped_updates"] else ""
    at = f"attempt {status['attempt']}, step {status['step']}/{status['num_steps']}"
    return f"{status['run']}: {status['state']}{reason}, {at}{measured}{spikes}"
