"""The local Ray cluster: what it opens, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from orchestrator.node.processes import look_at, pids_with_environment, processes
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.machines import machine_of
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.ray_backend.listening import LOOPBACK, listening_addresses

pytestmark = pytest.mark.xdist_group("ray")


def test_everything_listens_on_loopback_only(home: Path, cluster: str):
    daemon = local_cluster.read_state(local_cluster.directory_of(home))
    assert daemon is not None
    ours = {process.pid for process in processes() if process.session == daemon.pid}

    addresses = listening_addresses(ours)

    assert addresses
    assert addresses <= LOOPBACK


def test_the_token_is_for_this_user_only(home: Path, cluster: str):
    assert stat.S_IMODE(local_cluster.token_path(home).stat().st_mode) == 0o600


def test_a_cluster_that_runs_is_used_again(home: Path, cluster: str):
    assert local_cluster.start_local_cluster(home, 1) == cluster
    assert local_cluster.local_address(home) == cluster


def test_its_nodes_are_the_same_machines_whenever_it_is_started(home: Path, cluster: str):
    """In the order in which `local_nodes` has them, the head first."""
    import ray

    machines = {node["NodeID"]: machine_of(node) for node in ray.nodes()}

    assert [machines[node.node] for node in local_cluster.local_nodes(home)] == ["local-0", "local-1", "local-2"]


def test_nothing_is_left_of_a_cluster_whose_daemon_was_killed(tmp_path: Path):
    local_cluster.start_local_cluster(tmp_path, 1)
    daemon = local_cluster.read_state(local_cluster.directory_of(tmp_path))
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGKILL)
    wait_for(lambda: look_at(daemon.pid) is None, "the daemon's end")

    assert local_cluster.local_address(tmp_path) is None
    local_cluster.stop_local_cluster(tmp_path)

    assert [process for process in processes() if process.session == daemon.pid] == []
    assert pids_with_environment(local_cluster.MARK, daemon.ray_dir) == []
    assert not Path(daemon.ray_dir).exists()


def test_stopping_what_never_ran_is_fine(tmp_path: Path):
    local_cluster.stop_local_cluster(tmp_path)

    assert local_cluster.local_nodes(tmp_path) == ()


def test_a_state_file_of_a_process_that_is_another_now_is_stale(tmp_path: Path):
    directory = local_cluster.directory_of(tmp_path)
    directory.mkdir(parents=True)
    me = look_at(os.getpid())
    assert me is not None
    state = local_cluster.LocalState(address="127.0.0.1:1", pid=me.pid, start_ticks=me.start_ticks - 1, ray_dir="/tmp/braid-none", nodes=())
    local_cluster.write_state(directory, state)

    assert local_cluster.local_address(tmp_path) is None
    local_cluster.stop_local_cluster(tmp_path)
    assert local_cluster.read_state(directory) is None
