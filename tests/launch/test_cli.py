"""What every command has in common: errors are one line, and bugs are not hidden. From stores alone: no Ray, no torch."""

from pathlib import Path

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from tests.launch.command_line import Braid
from tests.launch.stored_runs import stored_run


def test_a_mistake_ends_with_status_2_and_one_line(braid: Braid) -> None:
    done = braid("submit", "tiny", "train.num_stepz=3")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: train.num_stepz: no such key, did you mean train.num_steps?")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "logs", "stop", "resume", "verify", "checkpoints"])
def test_an_unknown_run_is_one_line_with_the_nearest_names(command: str, braid: Braid) -> None:
    stored_run(braid.root)
    done = braid(command, "frist")
    assert (done.status, done.out) == (2, "")
    assert done.err == f"braid: run 'frist': not in {braid.root}; did you mean first?\n"


def test_a_stranger_is_answered_with_where_to_look(braid: Braid) -> None:
    stored_run(braid.root)
    done = braid("status", "olmo-hybrid")
    assert done.err == (
        f"braid: run 'olmo-hybrid': not in {braid.root}; `braid runs --storage {braid.root}` lists those that are; "
        "or choose another store with --storage\n"
    )


def test_the_store_can_be_named_instead_of_the_default(braid: Braid, tmp_path: Path) -> None:
    stored_run(tmp_path / "elsewhere", (), "name=there")
    assert braid("status", "there").status == 2
    assert braid("status", "there", "--storage", str(tmp_path / "elsewhere")).status == 0
    assert braid("status", "there", "--storage", "ftp://x").err.startswith("braid: storage.root='ftp://x': not an S3 location")


def test_a_store_that_does_not_answer_is_one_line(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(storage: object, name: str) -> None:
        raise StoreUnavailable("s3://b/x: no answer\nfrom AWS; check the network")

    monkeypatch.setattr("launch.runs.view.read_run", away)
    done = braid("status", "first")
    assert (done.status, done.err) == (2, "braid: s3://b/x: no answer from AWS; check the network\n")


def test_an_unreadable_journal_is_one_line(braid: Braid) -> None:
    stored_run(braid.root)
    (braid.root / "runs/first/journal/000000000001.json").write_bytes(b"{")
    done = braid("status", "first")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "journal/000000000001.json is not JSON" in done.err


def test_a_bug_keeps_its_traceback(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.runs.view.read_run", lambda storage, name: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        braid("status", "first")


def test_the_version_is_the_packages(braid: Braid) -> None:
    assert braid("--version").out.strip().count(".") == 2
