"""Creating runs, and reading them back from nothing but the store."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import KeyExists, KeyMissing, ObjectStore
from launch.config.storage import storage_of
from launch.errors import NoSuchRun, RunExists, UserError
from launch.runs.record import create_run, last_record, read_run, recorded_status, run_names, run_store_of
from orchestrator import codec
from orchestrator.control.causes import Cause
from orchestrator.control.events import RunSubmitted
from orchestrator.control.history import open_history
from orchestrator.control.state import terms_of
from orchestrator.messages import Outcome
from orchestrator.records.configs import add_config, read_config
from orchestrator.records.keys import config_key
from tests.launch.stored_runs import RUNNING, config_at, put_steps, store_at, stored_run
from tests.orchestrator.control.stories import ended, failed, fault, gone, placed, stop


def test_a_created_run_has_a_config_a_name_and_one_journal_entry(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    create_run(store_at(tmp_path), config, at_s=5.0)
    record = read_run(config.storage, "first")
    assert (record.config, record.state.label, record.has_ended) == (config, "queued", False)
    assert run_names(store_at(tmp_path)) == ["first"]
    submitted = RunSubmitted(at_s=5.0, terms=terms_of(config, 1), run_id=record.identity.id)
    assert [entry.event for entry in open_history(record.run_store).entries] == [submitted]


def test_runs_of_one_name_in_two_stores_are_two_and_a_store_spelled_otherwise_has_the_same_run(tmp_path: Path) -> None:
    for store in ("a", "b"):
        create_run(store_at(tmp_path / store), config_at(tmp_path / store), at_s=5.0)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    a, b, *otherwise = (read_run(StorageConfig(root=f"{tmp_path}/{root}"), "first").identity for root in ("a", "b", "a/", "link", "b/../a"))
    assert a != b
    assert otherwise == [a, a, a]


def test_a_name_is_used_once(tmp_path: Path) -> None:
    config = stored_run(tmp_path)
    for again in (config, replace(config, train=replace(config.train, num_steps=7))):
        with pytest.raises(
            RunExists, match=r"^name=first: this run exists already; choose another with name=…, or go on with `braid resume first`$"
        ):
            create_run(store_at(tmp_path), again, at_s=2.0)


def test_a_submission_that_died_half_way_does_not_hold_the_name(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    run_store_of(store_at(tmp_path), "first").create(config_key(1), codec.to_json(config))
    with pytest.raises(NoSuchRun):
        read_run(config.storage, "first")
    other = config_at(tmp_path, "train.num_steps=3")
    create_run(store_at(tmp_path), other, at_s=1.0)
    record = read_run(config.storage, "first")
    assert (record.config, record.version) == (other, 2)
    with pytest.raises(RunExists):
        create_run(store_at(tmp_path), config, at_s=2.0)


def test_of_two_submissions_at_once_one_is_told_that_the_run_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_at(tmp_path)
    run_store = run_store_of(store_at(tmp_path), "first")
    other = config_at(tmp_path, "train.num_steps=3")

    def nobody_yet(store: ObjectStore, name: str) -> None:
        monkeypatch.undo()
        create_run(store, other, at_s=1.0)

    monkeypatch.setattr("launch.runs.record.refuse_existing", nobody_yet)
    with pytest.raises(RunExists):
        create_run(store_at(tmp_path), config, at_s=1.0)
    assert len(open_history(run_store).entries) == 1
    assert read_run(config.storage, "first").config == other


def test_an_unknown_run_is_answered_with_the_nearest_names(tmp_path: Path) -> None:
    storage = storage_of(str(tmp_path))
    nothing = r"^run 'fisrt': not in .*; it holds none; choose another store with --storage, or is its file system not mounted\?$"
    with pytest.raises(NoSuchRun, match=nothing):
        read_run(storage, "fisrt")
    stored_run(tmp_path)
    stored_run(tmp_path, (), "name=unlike")
    with pytest.raises(NoSuchRun, match=r"; did you mean first\?$"):
        read_run(storage, "fisrt")


@pytest.mark.parametrize("name", ["../first", "a/b", "", ".", "..", "x" * 64, "a\n"])
def test_a_name_cannot_leave_the_runs_prefix(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^name="):
        read_run(storage_of(str(tmp_path)), name)


def test_config_versions_are_numbered_and_never_overwritten(tmp_path: Path) -> None:
    config = stored_run(tmp_path)
    run_store = run_store_of(store_at(tmp_path), "first")
    longer = replace(config, train=replace(config.train, num_steps=400))
    assert add_config(run_store, longer) == 2
    assert (read_config(run_store, 1), read_config(run_store, 2)) == (config, longer)
    with pytest.raises(KeyMissing):
        read_config(run_store, 3)
    with pytest.raises(KeyExists):
        run_store.create(config_key(2), b"{}")


def test_the_last_recorded_step_is_what_a_dead_cluster_leaves_to_tell(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    put_steps(tmp_path, 1, range(1, 20))
    put_steps(tmp_path, 1, range(20, 34))
    status = recorded_status(read_run(config.storage, "first"), 100.0)
    assert (status["state"], status["step"], status["live"]) == ("running", 33, False)
    assert status["loss"] == pytest.approx(5.7)


def test_a_new_attempt_without_records_shows_those_of_the_one_before(tmp_path: Path) -> None:
    config = stored_run(tmp_path, (*RUNNING, failed(1, fault(Cause.KILLED, "b"), at_step=33), gone(1), placed(2, "ac")))
    record = read_run(config.storage, "first")
    assert last_record(record) is None
    put_steps(tmp_path, 1, range(15, 34))
    found = last_record(record)
    assert (record.state.attempt, record.state.label) == (2, "recovering")
    assert found is not None
    assert found.step == 33


def test_an_ended_run_says_how(tmp_path: Path) -> None:
    config = stored_run(tmp_path, (*RUNNING, stop(), ended(1, Outcome.STOPPED, 25), gone(1)))
    record = read_run(config.storage, "first")
    assert (record.state.label, record.has_ended, record.state.reason) == ("stopped", True, "stopped on request at step 25")
