"""Directories of one process, and what becomes of them when it is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from model.weights.own_directory import own_directory, remove_orphans

KILLED = """
import os, pathlib, signal, sys
from model.weights.own_directory import own_directory
with own_directory(pathlib.Path(sys.argv[1])) as directory:
    (directory / "file").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "scratch-killed")], check=False).returncode == -9
    with own_directory(tmp_path / "scratch-lives") as lives:
        remove_orphans(tmp_path.glob("scratch-*"))
        assert list(tmp_path.iterdir()) == [lives]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_renamed_stays(tmp_path: Path) -> None:
    with own_directory(tmp_path / "partial") as partial:
        partial.rename(tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_one_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), own_directory(tmp_path / "partial"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
