"""The demo's run: its data is made, and it is hurt when its time has come."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch.demo import play
from launch.demo.script import SCRIPT, Fault, Injected
from launch.demo.store import demo_store
from orchestrator.node.processes import look_at, send
from orchestrator.ray_backend.local.cluster import LocalNode


def a_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_corpus_of_ones_own_becomes_a_dataset_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.txt").write_text("a fox and a dog\n" * 300)
    with demo_store(str(tmp_path / "store"), tmp_path) as storage:
        config = play._prepare(storage, tmp_path / "corpus", 77, Console(quiet=True))
    assert config.train.num_steps == 77
    assert config.data.dataset == config.name
    assert (tmp_path / "store/datasets" / config.name / "manifest.json").is_file()


def test_the_run_is_hurt_away_from_the_head_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes = (LocalNode(node="head", raylet_pid=1, is_head=True), LocalNode(node="b", raylet_pid=2, is_head=False))
    cut: list[str] = []
    monkeypatch.setattr(play, "local_nodes", lambda home: nodes)
    monkeypatch.setattr(play, "kill_node", lambda home, node: cut.append(node))
    incident = {"recovered_after_s": 3.0}
    with a_process() as bystander, a_process() as victim:
        workers = [{"rank": 0, "node": "head", "pid": bystander.pid}, {"rank": 1, "node": "b", "pid": victim.pid}]
        running: dict[str, Any] = {"state": "running", "workers": workers, "incidents": []}
        story = [
            running | {"step": 10, "last_committed_step": 0},
            running | {"step": 25, "last_committed_step": 20},
            running | {"step": 25, "last_committed_step": 20},
            running | {"step": 45, "last_committed_step": 40, "incidents": [incident]},
            running | {"step": 65, "last_committed_step": 60, "incidents": [incident, incident]},
        ]
        injected: list[Injected] = []
        assert list(play._hurting(iter(story), tmp_path, SCRIPT, injected, Console(quiet=True))) == story
        is_unharmed = bystander.poll() is None
        bystander.kill()
        assert is_unharmed
        assert victim.wait(10) == -9
    assert [(one.fault, one.node, one.rank, one.committed_step) for one in injected] == [
        (Fault.WORKER, "b", 1, 20),
        (Fault.NODE, "b", 1, 40),
    ]
    assert cut == ["b"]


def test_of_every_worker_the_agent_is_killed_and_not_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(play, "local_nodes", lambda home: (LocalNode(node="head", raylet_pid=1, is_head=True),))
    agent_code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.stdin.read()"
    agents = [
        subprocess.Popen([sys.executable, "-c", agent_code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    pids = [int(agent.stdout.readline()) for agent in agents if agent.stdout]
    workers = [{"rank": rank, "node": node, "pid": pid} for rank, (node, pid) in enumerate(zip(("head", "b"), pids, strict=True))]
    status: dict[str, Any] = {"step": 65, "last_committed_step": 60, "workers": workers}
    try:
        done = play._inject(Fault.AGENTS, status, tmp_path, Console(quiet=True))
        assert [agent.wait(10) for agent in agents] == [-9, -9]
        assert (done.node, done.rank, done.committed_step) == (None, None, 60)
        assert all(look_at(pid) is not None for pid in pids)
    finally:
        for pid in pids:
            send(pid, signal.SIGKILL)
        for agent in agents:
            agent.kill()
            agent.communicate()
