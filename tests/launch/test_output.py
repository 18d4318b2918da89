"""What commands print, wherever it goes and whatever is in it."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.runs.record import run_store_of
from launch.show.answer_json import answer_json
from orchestrator.records.nodes import Cordoned, NodeRegistry
from tests.launch.command_line import Braid
from tests.launch.stored_runs import RUNNING, put_steps, store_at, stored_run

ROOT = Path(__file__).parents[2]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)
COMMANDS = [
    ["runs"], ["runs", "--json"], ["status", "first"], ["status", "first", "--json"], ["logs", "first"], ["checkpoints", "first"],
    ["--help"], ["--version"], ["model", "olmo_hybrid_190m"], ["submit", "tiny", "name=x", "--dry-run"],
]  # fmt: skip


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@given(VALUES)
def test_what_is_told_as_json_is_json(value: Any) -> None:
    json.loads(answer_json(value), parse_constant=refuse_constant)


def test_a_run_whose_loss_is_not_finite_is_told_as_json(braid: Braid) -> None:
    stored_run(braid.root, RUNNING)
    put_steps(braid.root, 1, range(1, 31))
    key = "ledger/a0001/000000001-000000030.jsonl"
    run_store = run_store_of(store_at(braid.root), "first")
    run_store.put(key, run_store.get(key).replace(b'"loss":6.0', b'"loss":NaN'))
    for command in (["status", "first", "--json"], ["runs", "--json"]):
        told = json.loads(braid(*command).out, parse_constant=refuse_constant)
        assert (told if isinstance(told, dict) else told[0])["loss"] is None


def test_json_is_made_in_one_place() -> None:
    files = [path for room in ("commands", "show") for path in (ROOT / "launch" / room).glob("*.py")]
    assert [path.name for path in files if "json.dumps" in path.read_text()] == ["answer_json.py"]


@pytest.fixture
def stored(braid: Braid) -> Braid:
    stored_run(braid.root, RUNNING)
    run_store_of(store_at(braid.root), "first").put("logs/a0001/rank-00000.log", b"a word\n")
    return braid


def typed(arguments: list[str], stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.cli", *arguments]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=100)


@pytest.mark.parametrize("arguments", [["runs"], ["runs", "--json"], ["logs", "first"], ["--help"]], ids=" ".join)
def test_an_answer_that_can_not_be_written_is_one_line_and_no_success(arguments: list[str], stored: Braid) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    reads, closed = os.pipe()
    os.close(reads)
    try:
        done = typed(arguments, full)
        assert (done.returncode, done.stderr) == (2, f"braid: what was to be told could not be written: {os.strerror(errno.ENOSPC)}\n")
        done = typed(arguments, closed)
        assert done.returncode != 0
        assert done.stderr.count("\n") <= 1
        assert "Traceback" not in done.stderr
    finally:
        os.close(full)
        os.close(closed)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_takes_a_full_stdout_for_success(arguments: list[str], stored: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert stored(*arguments).status == 2


def test_a_full_stderr_to_which_nothing_is_told_is_no_trouble(stored: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(full, write_through=True))
        assert stored("runs").status == 0


def test_a_directory_that_was_removed_is_one_line(stored: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in (["stop", "first"], ["doctor"], ["runs", "--storage", "here"]):
        done = stored(*command)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "not there any more; `cd` to one that is" in done.err


@pytest.mark.parametrize("columns", ["0", "1", "20"])
def test_nothing_is_left_out_for_want_of_columns(columns: str, stored: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    told = stored("runs").out
    assert all(word in told for word in ("first", "running", "restarts"))


def test_a_run_whose_folder_was_deleted_is_not_taken_for_a_mistyped_name(stored: Braid) -> None:
    shutil.rmtree(stored.root / "runs" / "first")
    done = stored("status", "first")
    assert (done.status, "its name is there, its journal is not" in done.err) == (2, True)


def test_what_looks_like_markup_is_told_as_it_is(braid: Braid) -> None:
    registry = NodeRegistry(store_at(braid.root))
    registry.record(Cordoned(at_s=1.0, machine="gpu07", reason="[/b] and :smile: [red]", by="ops@host", within_s=None))
    assert "[/b] and :smile: [red]" in braid("nodes").out


@pytest.mark.parametrize("command", [["cluster", "up"], ["cluster", "down"]], ids=" ".join)
@pytest.mark.parametrize("below", ["", "/home"])
def test_a_home_that_can_not_be_one_is_one_line(
    command: list[str], below: str, stored: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    home = f"{tmp_path}/file{below}"
    monkeypatch.setenv("BRAID_HOME", home)
    done = stored(*command)
    assert done.status == 2
    assert done.err == f"braid: {home}/local-cluster: Not a directory; BRAID_HOME must be a directory that can be written to, with room\n"
    assert stored("status", "first").status == 0, "the store is somewhere else"
