"""A Ray cluster on this machine, for the laptop, the demo and tests: started, found again, stopped without a trace.

Several nodes (raylets) run on one host, in a session of their own that outlives the shell. Everything listens on loopback only, and wants
a token that only this user can read.

    <home>/local-cluster/cluster.json    address, processes
                         token           Ray's authentication token, mode 0600
                         daemon.log
    /tmp/braid-XXXXXXXX/                 Ray's own files: its socket paths must be short
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator import codec
from orchestrator.deadlines import CONNECT_WITHIN_S, LOCAL_CLUSTER_STARTS_WITHIN_S, PROCESSES_GONE_WITHIN_S
from orchestrator.node.own_python import own_python
from orchestrator.node.processes import kill_all, look_at, pids_with_environment, processes, send, tree_of

MARK = "BRAID_LOCAL_CLUSTER"
"""Environment variable that every process of a local cluster inherits; its value is the cluster's own directory under /tmp."""


class LocalClusterFailed(Exception):
    """It did not start or stop; one line with the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalNode:
    node: str
    """Ray's id of the node."""
    raylet_pid: int
    is_head: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalState:
    address: str
    pid: int
    """Process id of the daemon, which is also the session of all of the cluster's own processes."""
    start_ticks: int
    """Start of the daemon in clock ticks since boot, to tell it from a later process with its pid."""
    ray_dir: str
    nodes: tuple[LocalNode, ...]


def start_local_cluster(home: Path, num_nodes: int) -> str:
    """The address of the local cluster, which is started with `num_nodes` nodes where none runs. Raises LocalClusterFailed.

    Its processes inherit this one's environment, the credentials for the object store among it.
    """
    directory = directory_of(home)
    with _locked(directory):
        state = read_state(directory)
        if state is not None and _is_alive(state):
            return state.address
        _stop(directory)
        return _start(directory, home, num_nodes)


def stop_local_cluster(home: Path) -> None:
    """Kills every process of the local cluster, runs included, and removes its files. Raises LocalClusterFailed where one survives."""
    directory = directory_of(home)
    with _locked(directory):
        _stop(directory)


def local_address(home: Path) -> str | None:
    """The address of the local cluster that runs; None when none does."""
    state = read_state(directory_of(home))
    return state.address if state is not None and _is_alive(state) else None


def token_path(home: Path) -> Path:
    """The token to connect with."""
    return directory_of(home) / "token"


def local_nodes(home: Path) -> tuple[LocalNode, ...]:
    """The nodes whose raylet is alive, the head first."""
    state = read_state(directory_of(home))
    if state is None:
        return ()
    ours = {process.pid for process in processes() if process.session == state.pid}
    return tuple(node for node in state.nodes if node.raylet_pid in ours)


def kill_node(home: Path, node: str) -> list[int]:
    """Like a power cut: every process of the node at once. Returns their pids. Raises LocalClusterFailed for an unknown node."""
    victim = next((known for known in local_nodes(home) if known.node == node), None)
    if victim is None:
        raise LocalClusterFailed(f"no live node {node} in the local cluster of {home}; `local_nodes` lists them")
    frozen: set[int] = set()
    while new := set(tree_of(victim.raylet_pid)) - frozen:
        for pid in new:
            send(pid, signal.SIGSTOP)
        frozen |= new
    for pid in frozen:
        send(pid, signal.SIGKILL)
    return sorted(frozen)


def write_state(directory: Path, state: LocalState) -> None:
    """For the daemon: everything is up."""
    temporary = directory / "cluster.json.new"
    temporary.write_bytes(codec.to_json(state))
    os.replace(temporary, directory / "cluster.json")


# --- behind them -------------------------------------------------------------------------------------------------------


def _start(directory: Path, home: Path, num_nodes: int) -> str:
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ray_dir = tempfile.mkdtemp(prefix="braid-", dir="/tmp")
    command = [sys.executable, "-P", "-m", "orchestrator.ray_backend.local.main", str(directory), str(num_nodes)]
    (directory / "ray-dir").write_text(ray_dir)
    with (directory / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            command,
            env=_environment(home, token, ray_dir),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + LOCAL_CLUSTER_STARTS_WITHIN_S
    while (state := read_state(directory)) is None:
        if daemon.poll() is not None or time.monotonic() > deadline_s:
            _stop(directory, session=daemon.pid)
            daemon.wait()
            raise LocalClusterFailed(f"the local Ray cluster did not start; its last words are in {log.name}")
        time.sleep(0.05)
    daemon.returncode = 0  # it is meant to outlive this process, which will not wait for it
    return state.address


def _environment(home: Path, token: Path, ray_dir: str) -> dict[str, str]:
    without_paths = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # of whoever happens to start it
    return own_python(without_paths) | {
        "BRAID_HOME": str(home),
        MARK: ray_dir,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": ray_dir,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


def _stop(directory: Path, session: int | None = None) -> None:
    """SIGKILL by session, descent and mark: workers have sessions of their own, and Ray's processes overwrite their environment."""
    state = read_state(directory)
    ray_dir_file = directory / "ray-dir"
    ray_dir = ray_dir_file.read_text() if ray_dir_file.exists() else ""
    if state is not None and not _was_reused(state):
        session = state.pid
    left = kill_all(lambda: _of_the_cluster(session, ray_dir))
    if left:
        raise LocalClusterFailed(
            f"processes {left} of the local cluster are still there {PROCESSES_GONE_WITHIN_S:.0f} s after SIGKILL: it is busy, or "
            "they are stuck in the kernel; try again, and reboot where they stay"
        )
    for name in ("cluster.json", "token", "ray-dir"):
        (directory / name).unlink(missing_ok=True)
    if ray_dir:
        shutil.rmtree(ray_dir, ignore_errors=True)


def _of_the_cluster(session: int | None, ray_dir: str) -> set[int]:
    marked = set(pids_with_environment(MARK, ray_dir)) if ray_dir else set()
    roots = [process.pid for process in processes() if process.session == session]
    return marked.union(*(tree_of(pid) for pid in roots))


def _was_reused(state: LocalState) -> bool:
    """True when the daemon's pid belongs to another process now. While any process of the daemon's session lives, that can't be."""
    now = look_at(state.pid)
    return now is not None and now.start_ticks != state.start_ticks


def _is_alive(state: LocalState) -> bool:
    """The daemon exists and the head answers."""
    daemon = look_at(state.pid)
    if daemon is None or daemon.start_ticks != state.start_ticks:
        return False
    host, _, port = state.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_WITHIN_S).close()
    except OSError:
        return False
    return True


def read_state(directory: Path) -> LocalState | None:
    """None where there is none, or none that can be read, as one that another version wrote."""
    try:
        return codec.from_json(LocalState, (directory / "cluster.json").read_bytes())
    except (OSError, codec.DecodeError):
        return None


def directory_of(home: Path) -> Path:
    return home / "local-cluster"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time starts or stops the cluster of a home. Raises LocalClusterFailed where its files can't be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        trouble = f"{error.filename or directory}: {error.strerror or error}"
        raise LocalClusterFailed(f"{trouble}; BRAID_HOME must be a directory that can be written to, with room") from error
