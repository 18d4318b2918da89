"""What holds a node: its notice, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.node.processes import kill_all, look_at, pids_with_environment, tree_of
from tests.orchestrator.node.waiting import wait_for

HOLDER = "import sys; from orchestrator.node.notice import run_node; sys.exit(run_node(sys.argv[1:]))"
RAY = """
import os, subprocess, sys, time
worker = [sys.executable, "-c", sys.argv[1], *sys.argv[2:]]
subprocess.Popen(worker, env=os.environ | {"BRAID_RUN": "first"}, start_new_session=True)
time.sleep(1000)
"""
"""Stands for all of Ray's processes: any of them would end at SIGTERM."""
WORKER = """
import pathlib, signal, sys, time
saved, may_save = map(pathlib.Path, sys.argv[1:])
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
saved.with_name("is-up").touch()
while not told or not may_save.exists():
    time.sleep(0.01)
saved.touch()
"""


@contextmanager
def holding(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    mark = {"BRAID_TEST_OF_NOTICE": str(os.getpid())}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, *command], env=os.environ | mark)
    try:
        yield process
    finally:
        kill_all(lambda: pids_with_environment(*next(iter(mark.items()))))
        process.wait()


def test_a_node_that_got_its_notice_ends_once_its_workers_have_saved(tmp_path: Path):
    """Whoever gives notice tells all processes, as systemd and Slurm do, or the first only, as Kubernetes does."""
    for tells_all in (True, False):
        directory = tmp_path / str(tells_all)
        directory.mkdir()
        saved, may_save = directory / "saved", directory / "may-save"
        with holding(sys.executable, "-c", RAY, WORKER, str(saved), str(may_save)) as holder:
            wait_for((directory / "is-up").exists, "the worker")
            everyone = tree_of(holder.pid)
            assert len(everyone) == 3
            for pid in everyone if tells_all else [holder.pid]:
                os.kill(pid, signal.SIGTERM)
            may_save.touch()

            assert holder.wait(timeout=60) == 0
            assert saved.exists()
            assert [pid for pid in everyone if look_at(pid)] == []


def test_a_node_without_workers_ends_at_once():
    with holding("sleep", "1000") as holder:
        wait_for(lambda: len(tree_of(holder.pid)) == 2, "the node")
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(timeout=60) == 0


def test_a_node_is_held_for_as_long_as_anything_of_it_is_there(tmp_path: Path):
    """`ray start` without --block leaves its processes behind, and has its own exit status where it fails."""
    until = tmp_path / "until"
    daemon = f"(while [ ! -e {until} ]; do sleep 0.05; done) & echo $! > {until}.pid.new; mv {until}.pid.new {until}.pid"
    with holding("bash", "-c", daemon) as holder:
        wait_for((pid := Path(f"{until}.pid")).exists, "the daemon")
        wait_for(lambda: len(tree_of(holder.pid)) >= 2 and int(pid.read_text()) in tree_of(holder.pid), "its place below the holder")
        assert holder.poll() is None
        until.touch()
        assert holder.wait(timeout=60) == 0
    with holding("bash", "-c", "exit 7") as holder:
        assert holder.wait(timeout=60) == 7
