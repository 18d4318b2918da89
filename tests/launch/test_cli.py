"""What every command has in common: errors are one line, and bugs are not hidden. From stores alone: no Ray, no torch."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from launch.runs.record import run_names
from orchestrator.ray_backend.session import CantJoin
from tests.launch.command_line import Braid
from tests.launch.stored_runs import RUNNING, put_dataset, store_at, stored_run


def test_a_mistake_ends_with_status_2_and_one_line(braid: Braid) -> None:
    done = braid("submit", "tiny", "train.num_stepz=3")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("braid: train.num_stepz: no such key (did you mean train.num_steps?)")
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


@pytest.fixture
def broken_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one whose head listens, and which Ray can't join."""

    def join(address: str) -> None:
        raise CantJoin("Failed to connect to socket at address:/tmp/braid-x/sockets/raylet")

    monkeypatch.setattr("orchestrator.ray_backend.client.join_tried", join)
    with socket.create_server(("127.0.0.1", 0)) as head:
        yield f"127.0.0.1:{head.getsockname()[1]}"


def test_where_ray_can_not_join_its_cluster_the_store_answers_and_one_line_says_why(braid: Braid, broken_cluster: str) -> None:
    stored_run(braid.root, RUNNING)
    done = braid("status", "first", "--address", broken_cluster)
    assert (done.status, "first  running" in done.out) == (0, True)
    assert done.err == (
        f"Ray at {broken_cluster} can't be joined: Failed to connect to socket at address:/tmp/braid-x/sockets/raylet; "
        "restart that cluster, then `braid resume` its runs\n"
    )


@pytest.mark.parametrize("command", [["resume", "first"], ["submit", "tiny", "name=second"], ["cluster", "status"]])
def test_what_needs_a_cluster_that_ray_can_not_join_is_one_line(command: list[str], braid: Braid, broken_cluster: str) -> None:
    stored_run(braid.root, RUNNING)
    put_dataset(braid.root)
    storage = [f"storage.root={braid.root}"] if command[0] == "submit" else []
    done = braid(*command, *storage, "--address", broken_cluster)
    lines = [line for line in done.err.splitlines() if not line.startswith("data: ")]  # what a submission reads is told before
    assert (done.status, done.out, len(lines)) == (2, "", 1)
    assert lines[0].startswith(f"braid: Ray at {broken_cluster} can't be joined: Failed to connect")
    assert run_names(store_at(braid.root)) == ["first"]


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
