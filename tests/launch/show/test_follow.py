"""Watching a run: on a terminal, as lines, and what is told beside."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from launch.show.follow import show, warned
from tests.launch.stored_runs import RUNNING, status_of, stored_run


def test_each_refused_checkpoint_is_told_once_when_it_appears(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    refused = ([], ["step 40: bad"], ["step 40: bad"], ["step 40: bad", "step 20: bad"])
    told: list[str] = []
    seen = warned((status_of(tmp_path, rejected_checkpoints=lines) for lines in refused), told.append)
    assert [(status["state"], len(told)) for status in seen] == [("running", 0), ("running", 1), ("running", 1), ("running", 2)]
    assert told == ["warning: step 40: bad", "warning: step 20: bad"]


def test_what_a_later_attempt_refuses_is_told_too(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    told: list[str] = []
    for _ in warned((status_of(tmp_path, rejected_checkpoints=lines) for lines in (["step 40: bad"], [], ["step 20: bad"])), told.append):
        pass
    assert told == ["warning: step 40: bad", "warning: step 20: bad"]


def test_an_alert_is_told_when_it_appears_and_again_when_it_comes_back(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    told: list[str] = []
    alerts = ([], ["no nodes"], ["no nodes", "lost"], [], ["no nodes"])
    for _ in warned((status_of(tmp_path, alerts=lines) for lines in alerts), told.append):
        pass
    assert told == ["ALERT: no nodes", "ALERT: lost", "ALERT: no nodes"]


def test_without_a_terminal_a_line_is_printed_for_each_change_and_now_and_then(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    output = StringIO()
    seen = [
        status_of(tmp_path, state=state, step=step) for step, state in enumerate(["queued", "running", "running", "running", "finished"])
    ]
    times = iter([0.0, 1.0, 2.0, 20.0, 21.0])
    last = show(iter(seen), Console(file=output), clock=lambda: next(times))
    assert last["state"] == "finished"
    assert [line.split(",")[0] + line.split(",")[2] for line in output.getvalue().splitlines()] == [
        "first: queued step 0/200",
        "first: running step 1/200",
        "first: running step 3/200",
        "first: finished step 4/200",
    ]
