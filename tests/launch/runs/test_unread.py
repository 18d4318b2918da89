"""Stopping a run whose records can't be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import StoreUnavailable
from launch.errors import NoSuchRun, NotOpen, NotReachable
from launch.runs import lifecycle
from launch.runs.unread import UNREADABLE, stop_unread
from launch.status import Status
from orchestrator.errors import JournalBroken
from orchestrator.records.keys import journal_key
from tests.launch.stored_runs import RUNNING, status_of, stored_run

BROKEN = JournalBroken("journal/2 is missing")


class Handle:
    """A controller that was found by its store."""

    def __init__(self, *statuses: Status | Exception, trouble: Exception | None = None) -> None:
        self.statuses = list(statuses)
        self.trouble = trouble
        self.asked: list[str] = []

    def stop(self, *, now: bool) -> None:
        self.asked.append("stop --now" if now else "stop")
        if self.trouble:
            raise self.trouble

    def status(self) -> Status:
        answer = self.statuses.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> int:
        self.asked.append("end")
        return 2


def found(handle: Handle | None, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def find_unread(storage: StorageConfig, name: str, address: str) -> Iterator[Handle | None]:
        yield handle

    monkeypatch.setattr("launch.runs.unread.find_unread", find_unread)
    monkeypatch.setattr("time.sleep", lambda delay_s: None)


def status(root: Path, state: str) -> Status:
    return status_of(root, state=state)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    stored_run(tmp_path, RUNNING)
    return tmp_path


def stop(root: Path, told: list[str], *, now: bool = False) -> Status:
    return lifecycle.stop(StorageConfig(root=str(root)), "first", now=now, address="", tell=told.append)


@pytest.mark.parametrize("last", ["stopped", "failed"])
def test_a_gap_in_the_journal_keeps_nobody_from_stopping_a_run_that_a_controller_has(
    root: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    handle, told = Handle(status(root, "stopping"), status(root, last)), list[str]()
    found(handle, monkeypatch)
    (root / "runs/first" / journal_key(2)).unlink()
    assert stop(root, told)["state"] == last
    assert handle.asked == ["stop"]
    assert "can't be read" in told[0]


def test_a_controller_that_leaves_has_ended_the_run_and_how_is_said_to_be_unknown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    found(Handle(status(root, "stopping"), NotReachable("gone")), monkeypatch)
    (root / "runs/first" / journal_key(2)).unlink()
    assert stop(root, told)["state"] == "stopped"
    assert "its records would say how" in told[-1]


@pytest.mark.parametrize("error", [BROKEN, StoreUnavailable("away"), NoSuchRun("not in"), *map(lambda one: one("x"), UNREADABLE[:3])])
def test_where_no_controller_has_the_run_the_trouble_is_told_as_it_is(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    found(None, monkeypatch)
    with pytest.raises(type(error), match=str(error)):
        stop_unread(StorageConfig(root="/nowhere"), "first", error, now=False, address="", tell=print)


def test_a_controller_that_can_not_write_either_is_ended_by_force_only_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle(trouble=NotOpen("controller of first: JournalBroken"))
    found(handle, monkeypatch)
    with pytest.raises(NotOpen, match=r"JournalBroken; the stop may follow .* `braid stop first --now` ends .* `braid repair first` mends"):
        stop_unread(StorageConfig(root="/nowhere"), "first", BROKEN, now=False, address="", tell=print)
    assert handle.asked == ["stop"]
    with pytest.raises(NotOpen, match="its agents on 2 nodes are ended, without a checkpoint"):
        stop_unread(StorageConfig(root="/nowhere"), "first", BROKEN, now=True, address="", tell=print)
    assert handle.asked == ["stop", "stop --now", "end"]
