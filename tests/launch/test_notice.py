"""A node that is about to go, under a run of real workers on a real Ray cluster: nothing that was trained is lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from launch.runs.record import read_run
from orchestrator.control.causes import Cause
from orchestrator.control.state import RunState
from orchestrator.node.processes import kill_all, look_at, pids_with_environment, tree_of
from orchestrator.ray_backend.local import cluster as local_cluster
from tests.orchestrator.node.waiting import wait_for

pytestmark = pytest.mark.xdist_group("ray")

SMALL = (
    "name=first", "data.dataset=small", "data.seq_len=32", "train.batch_rows=2", "train.micro_rows=1", "train.num_steps=1000000",
    "model.vocab_size=512", "model.d_model=32", "model.num_heads=2", "model.head_dim=16", "model.gdn_key_dim=8", "model.gdn_value_dim=16",
    "model.ffn_width=64", "checkpoint.every_steps=1000000", "resources.workers_per_node=1",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    yield home
    local_cluster.stop_local_cluster(home)
    assert kill_all(lambda: pids_with_environment("BRAID_HOME", str(home))) == []


@pytest.fixture
def braid(tmp_path: Path, home: Path) -> Callable[..., str]:
    environment = {name: value for name, value in os.environ.items() if name != "BRAID_ADDRESS"}
    environment |= {"BRAID_HOME": str(home), "BRAID_STORAGE_ROOT": str(tmp_path / "store")}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "launch.cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_node_whose_every_process_got_sigterm_costs_no_step(tmp_path: Path, home: Path, braid: Callable[..., str]) -> None:
    """As systemd and Slurm end a node, SIGKILL some time after. No checkpoint is due for a long time."""

    def state() -> RunState:
        return read_run(StorageConfig(root=str(tmp_path / "store")), "first").state

    def trains(attempt: int) -> bool:
        return state().attempt == attempt and state().label == "running" and not state().reason

    (tmp_path / "corpus.txt").write_text("a fox jumps over a dog, a dog jumps over a fox\n" * 400)
    braid("data", "build", "small", str(tmp_path / "corpus.txt"), "--vocab-size", "300")
    braid("submit", "tiny", *SMALL)
    wait_for(lambda: trains(attempt=1), "the first attempt")
    _, *others = local_cluster.local_nodes(home)
    leaving = next(node for node in others if node.node in [placed.node for placed in state().placement])

    processes = tree_of(leaving.raylet_pid)
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    wait_for(lambda: trains(attempt=2), "the second attempt")
    local_cluster.kill_node(home, leaving.node)
    daemon = local_cluster.read_state(local_cluster.directory_of(home))
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGTERM)  # as when this machine shuts down
    wait_for(lambda: look_at(daemon.pid) is None, "the end of the whole cluster")

    incident = state().incidents[0]
    assert (incident.cause, incident.node, incident.steps_replayed) == (Cause.LEAVING, leaving.node, 0)
    assert leaving.node not in [placed.node for placed in state().placement]
    assert pids_with_environment("BRAID_HOME", str(home)) == []
    newest, before = json.loads(braid("checkpoints", "first", "--json"))
    assert newest["step"] > before["step"] == incident.resumed_from_step
    assert "2 attempts, nothing skipped or repeated" in braid("verify", "first")
