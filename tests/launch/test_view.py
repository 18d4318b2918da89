"""Looking at a run: live where its controller answers, from the store where it does not."""

from collections import deque
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.errors import Abandoned, NotOpen, NotReachable, UserError
from launch.runs.preflight import prepare_dataset
from launch.runs.record import read_run, recorded_status
from launch.runs.view import RunView
from launch.show.follow import EXIT_STATUS, show, status_line, statuses, warned
from launch.show.plot import plot, rolling_mean
from launch.show.render import ENDED, incidents_view, status_view
from model.train.metrics import StepMetrics
from orchestrator.control.cluster import Observation
from orchestrator.control.status import build_status
from orchestrator.messages import AgentReport, Outcome, WorkerReport
from tests.launch.stored_runs import config_at, put_dataset, put_steps, store_at, stored_run
from tests.orchestrator.control.stories import committed, ended, gone, nodes, resumed, stepped

RUNNING = (nodes("ab"), resumed(1, 0), stepped(1, 1), committed(1, 20))


class FakeController:
    """Answers with what it is given, one after the other; None means that it does not answer."""

    def __init__(self, *, answers: Iterable[dict[str, Any] | None] = (), chunks: Iterable[bytes | None] = ()) -> None:
        self._answers = deque(answers)
        self._chunks = deque(chunks)

    def status(self) -> dict[str, Any]:
        answer = self._answers.popleft() if self._answers else None
        if answer is None:
            raise NotReachable("controller of first: no answer")
        return answer

    def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        chunk = self._chunks.popleft() if self._chunks else None
        return None if chunk is None else (chunk, offset + len(chunk))


def status_of(root: Path, **changes: object) -> dict[str, Any]:
    return recorded_status(read_run(config_at(root).storage, "first"), 100.0) | changes


def text_of(renderable: object, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_controller_that_falls_silent_is_replaced_by_the_journal(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    put_steps(tmp_path, 1, range(1, 31))
    live = status_of(tmp_path, step=35, live=True)
    view = RunView(read_run(config.storage, "first"), FakeController(answers=[live, None]))
    assert [view.status()["step"], view.status()["step"]] == [35, 30]


def test_a_controller_that_cannot_open_its_run_says_why(tmp_path: Path) -> None:
    config = stored_run(tmp_path)

    class Locked(FakeController):
        def status(self) -> dict[str, Any]:
            raise NotOpen("controller of first: AccessDenied: no credentials; trying again in up to 8 s")

    status = RunView(read_run(config.storage, "first"), Locked()).status()
    assert (status["state"], status["reason"]) == ("queued", "controller of first: AccessDenied: no credentials; trying again in up to 8 s")
    assert "AccessDenied" in status_line(status)


class Clock:
    """Moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_following_a_run_that_nothing_controls_ends_with_the_remedy(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()
    seen: list[dict[str, Any]] = []
    live = status_of(tmp_path, live=True, reason="")
    view = RunView(read_run(config.storage, "first"), FakeController(answers=[live, None, None, live]), clock=clock)
    with pytest.raises(Abandoned, match=r"^no controller of this run answers; continue it with `braid resume first --storage "):
        seen.extend(statuses(view.followed_status, poll_s=1.0, sleep=clock.sleep))
    assert [status["live"] for status in seen] == [True, False, False, True] + [False] * 15, "each silence is measured from its own start"
    assert "no controller answers; `braid resume first" in seen[-1]["reason"]
    assert clock.now_s == 100.0 + 4 + 15


def test_a_controller_that_waits_for_its_store_is_waited_for(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()

    class Locked(FakeController):
        def status(self) -> dict[str, Any]:
            raise NotOpen("controller of first: still reading its journal")

    view = RunView(read_run(config.storage, "first"), Locked(), clock=clock)
    for _ in range(3):
        assert view.followed_status()["reason"] == "controller of first: still reading its journal"
        clock.sleep(20.0)


def test_following_a_log_whose_cluster_is_gone_ends_with_the_remedy(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    clock = Clock()

    class Lost(FakeController):
        def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
            if offset:
                raise NotReachable("controller of first: its cluster is gone")
            return b"one ", 4

    view = RunView(read_run(config.storage, "first"), Lost(), clock=clock)
    printed: list[bytes] = []
    with pytest.raises(Abandoned, match="continue it with `braid resume first"):
        printed.extend(view.log(0, 0, follow=True, sleep=clock.sleep))
    assert (printed, clock.now_s) == ([b"one "], 115.0)


def test_each_refused_checkpoint_is_told_once_when_it_appears(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    refused = ([], ["step 40: bad"], ["step 40: bad"], ["step 40: bad", "step 20: bad"])
    told: list[str] = []
    seen = warned((status_of(tmp_path, rejected_checkpoints=lines) for lines in refused), told.append)
    assert [(status["state"], len(told)) for status in seen] == [("running", 0), ("running", 1), ("running", 1), ("running", 2)]
    assert told == ["warning: checkpoint refused: step 40: bad", "warning: checkpoint refused: step 20: bad"]


def test_following_ends_with_the_run_and_asks_in_between(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    states = deque(["queued", "running", "running", "finished", "never reached"])
    slept: list[float] = []
    seen = list(statuses(lambda: status_of(tmp_path, state=states.popleft()), poll_s=0.5, sleep=slept.append))
    assert [status["state"] for status in seen] == ["queued", "running", "running", "finished"]
    assert slept == [0.5] * 3
    assert set(EXIT_STATUS) == set(ENDED)


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


def test_a_live_log_is_followed_until_it_ends_and_its_last_words_come_from_the_store(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    record = read_run(config.storage, "first")
    record.run_store.put("logs/a0001/rank-00000.log", b"one two three")
    view = RunView(record, FakeController(chunks=[b"one ", b"", b"two ", None]))
    waits: list[float] = []
    assert b"".join(view.log(0, 0, follow=True, sleep=waits.append)) == b"one two three"
    assert len(waits) == 1


def test_a_live_log_that_is_not_followed_ends_where_it_is(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    view = RunView(read_run(config.storage, "first"), FakeController(chunks=[b"one ", b"", b"two "]))
    assert b"".join(view.log(0, 0, follow=False)) == b"one "


def test_a_log_that_nobody_has_yet_says_where_it_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))
    config = stored_run(tmp_path)
    with pytest.raises(UserError, match="it is uploaded when the worker ends"):
        list(RunView(read_run(config.storage, "first"), None).log(0, 0, follow=True))


def test_a_status_shows_workers_incidents_and_refused_checkpoints(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    worker = {"rank": 1, "node": "f" * 56, "pid": 77, "phase": "training", "step": 33, "last_progress_s": 0.25}
    incident = {
        "attempt": 1, "cause": "gpu_out_of_memory", "node": "f" * 56, "rank": 1, "step": 3, "at_step": 33, "detected_after_s": 0.5,
        "recovered_after_s": None, "resumed_from_step": None, "steps_replayed": None, "detail": "OutOfMemoryError: tried to allocate 1 GB",
    }  # fmt: skip
    text = text_of(
        status_view(status_of(tmp_path, workers=[worker], incidents=[incident], rejected_checkpoints=["step 20: bad"], tokens_per_s=1234.5))
    )
    for part in (
        "77",
        "ffffffff",
        "0.2 s ago",
        "gpu_out_of_memory",
        "attempt 1: OutOfMemoryError",
        "refused: step 20: bad",
        "1,234 tokens/s",
    ):
        assert part in text, text
    assert "f" * 9 not in text


def test_skipped_updates_are_told_while_a_run_goes_on(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    workers = tuple(
        WorkerReport(rank=rank, pid=rank, step=60, metrics=StepMetrics(loss=2.0, grad_norm=1.0, tokens=1024), num_skipped=41)
        for rank in range(2)
    )
    seen = Observation(at_s=9.0, nodes=(), attempt=1, reports=(AgentReport(attempt=1, node="a", workers=workers),))
    status = build_status("first", config, read_run(config.storage, "first").state, seen, 10.0)

    assert status["skipped_updates"] == 41
    assert "41 updates skipped" in text_of(status_view(status))
    assert status_line(status).endswith("step 60/200, loss 2.0000, 41 updates skipped")
    assert "skipped" not in status_line(status | {"skipped_updates": 0}) + status_line(status | {"skipped_updates": None})


def test_incidents_fit_a_narrow_terminal() -> None:
    incident = {
        "attempt": 12, "cause": "gpu_out_of_memory", "node": "f" * 56, "rank": 127, "at_step": 123456, "detected_after_s": 12.34,
        "recovered_after_s": 123.45, "resumed_from_step": 123000, "steps_replayed": 456, "detail": "x",
    }  # fmt: skip
    assert len(text_of(incidents_view([incident])).splitlines()) == 3, "headers, one row, one detail"


def test_a_finished_run_needs_no_controller_to_be_told(tmp_path: Path) -> None:
    stored_run(tmp_path, (*RUNNING, ended(1, Outcome.FINISHED, 200), gone(1)))
    assert "no controller" not in text_of(status_view(status_of(tmp_path)))


def test_the_default_dataset_is_built_once_and_then_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(*, store: object, name: str, progress: object) -> object:
        built.append(name)
        return put_dataset(tmp_path)

    monkeypatch.setattr("data_pipeline.dataset.build.build_default_dataset", build)
    told: list[str] = []
    for _ in range(2):
        prepare_dataset(config_at(tmp_path), store_at(tmp_path), tell=told.append)
    assert built == ["python-stdlib"]
    assert told == ["building dataset python-stdlib from the Python standard library's source …"]


def test_a_plot_has_its_extremes_at_the_axis_and_falls_from_left_to_right() -> None:
    lines = plot([8.0, 6.0, 5.0, 4.5], width=4, height=3, label="loss")
    assert [line[:7].strip() for line in lines] == ["8", "", "4.5", "", ""]
    assert lines[0][9] != "\u2800"
    assert lines[0][12] == "\u2800"
    assert lines[2][12] != "\u2800"
    assert lines[-1].strip() == "loss"


def test_a_rolling_mean_keeps_the_length() -> None:
    assert rolling_mean([4.0, 2.0, 6.0, 8.0], 2) == [4.0, 3.0, 4.0, 7.0]
    assert rolling_mean([], 2) == []


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], list(map(float, range(1000)))])
def test_a_plot_takes_any_number_of_values(values: list[float]) -> None:
    assert {len(line) for line in plot(values, width=10, height=2, label="x" * 10)[:3]} == {19}
