"""The list of runs: of many, in little time, and none hidden by another."""

import time
from pathlib import Path

import pytest

from launch.config.storage import storage_of
from launch.runs import record
from launch.ui.library import Library
from orchestrator.control.history import open_history
from orchestrator.records.keys import journal_key
from tests.launch.stored_runs import FINISHED, RUNNING, put_checkpoint, put_steps, stored_run
from tests.orchestrator.control.stories import committed


@pytest.fixture
def journals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where a journal was read, once more for each time."""
    read: list[str] = []
    whole = record.read_journal

    def counted(store, kinds):  # type: ignore[no-untyped-def]
        read.append(store.url("journal"))
        return whole(store, kinds)

    monkeypatch.setattr(record, "read_journal", counted)
    return read


def library(root: Path) -> Library:
    return Library(storage_of(str(root)), clock=time.time)


def test_what_did_not_change_is_not_read_again(tmp_path: Path, journals: list[str]) -> None:
    for number in range(200):
        stored_run(tmp_path, FINISHED if number else RUNNING, f"name=run-{number:03d}", "train.num_steps=40")
    shown = library(tmp_path)
    first = shown.look()
    assert ([len(first["runs"]), len(journals)]) == [200, 200]
    assert shown.look() == first
    assert len(journals) == 200
    history = open_history(record.run_store_of(record.open_store(storage_of(str(tmp_path))), "run-000"))
    history.append(committed(1, 30))
    assert shown.look()["runs"][0]["last_committed_step"] == 30
    assert len(journals) == 201


def test_a_run_that_trains_shows_its_newest_step_and_the_time_that_is_left(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    shown = library(tmp_path)
    put_steps(tmp_path, 1, range(1, 26))
    assert shown.look()["runs"][0]["step"] == 25
    put_steps(tmp_path, 1, range(26, 31))
    (run,) = shown.look()["runs"]
    assert (run["state"], run["step"]) == ("running", 30)
    assert run["left_s"] == pytest.approx(10 * (1 / 19)), "19 steps within the second from the first one to the checkpoint"


def test_a_run_whose_records_are_broken_says_so_and_hides_no_other(tmp_path: Path) -> None:
    for name in ("broken", "first"):
        stored_run(tmp_path, FINISHED, f"name={name}", "train.num_steps=40")
    (tmp_path / "runs" / "broken" / journal_key(3)).unlink()
    broken, whole = library(tmp_path).look()["runs"]
    assert (broken["state"], whole["state"]) == ("unreadable", "finished")
    assert "is missing while later entries exist" in broken["reason"]


def test_weights_and_what_a_submission_that_died_left(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING, "name=whole")
    put_checkpoint(tmp_path, config, attempt=1, step=20)
    (tmp_path / "run-names" / "half").write_bytes(b"")
    assert [run["run"] for run in library(tmp_path).look()["runs"]] == ["whole"]


def test_a_store_without_runs_is_an_empty_list(tmp_path: Path) -> None:
    assert library(tmp_path).look() == {"root": str(tmp_path), "runs": []}
