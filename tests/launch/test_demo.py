"""The demo's surroundings: a home and a store that leave nothing behind, and a run that is hurt when its time has come."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data_pipeline.store.open import open_store
from launch.demo import demo
from launch.demo.store import demo_store
from launch.demo.verdict import Fault, Injected
from orchestrator.node.processes import look_at
from orchestrator.ray_backend.local.cluster import LocalNode


@pytest.fixture(autouse=True)
def _environment_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BRAID_HOME", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv("AWS_PROFILE", "of-the-user")


def a_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.mark.parametrize("keep", [False, True])
def test_no_process_of_the_demo_outlives_it_and_files_only_where_wanted(
    keep: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    homes: list[Path] = []
    children: list[subprocess.Popen[bytes]] = []

    def interrupted_demo() -> None:
        with demo.temporary_home(keep=keep, console=Console(quiet=True)) as home:
            homes.append(home)
            (home / "file").touch()
            children.append(a_process())
            wait_until(lambda: demo.processes_of_home(home) == (f"process {children[0].pid} of {home}",))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_demo()
    assert os.environ["BRAID_HOME"] == str(homes[0])
    assert children[0].wait(10) == -9
    assert homes[0].exists() is keep


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_at_s, "waited 10 s"
        time.sleep(0.01)


def test_a_moto_store_has_a_bucket_and_credentials_of_its_own_and_ends(tmp_path: Path) -> None:
    with demo_store("moto", tmp_path) as storage:
        assert "AWS_PROFILE" not in os.environ
        store = open_store(storage)
        store.create("key", b"data")
        assert store.get("key") == b"data"
        servers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(tmp_path).encode() in arguments_of(pid)]
        assert len(servers) == 1
    assert look_at(servers[0]) is None


def arguments_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_directory_is_a_store_too(tmp_path: Path) -> None:
    with demo_store(str(tmp_path / "store"), tmp_path) as storage:
        assert storage.root == str(tmp_path / "store")


def test_a_corpus_of_ones_own_becomes_a_dataset_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.txt").write_text("a fox and a dog\n" * 300)
    with demo_store(str(tmp_path / "store"), tmp_path) as storage:
        config = demo._prepare(storage, tmp_path / "corpus", 77, Console(quiet=True))
    assert config.train.num_steps == 77
    assert config.data.dataset == config.name
    assert (tmp_path / "store/datasets" / config.name / "manifest.json").is_file()


def test_the_run_is_hurt_away_from_the_head_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nodes = (LocalNode(node="head", raylet_pid=1, is_head=True), LocalNode(node="b", raylet_pid=2, is_head=False))
    cut: list[str] = []
    monkeypatch.setattr(demo, "local_nodes", lambda home: nodes)
    monkeypatch.setattr(demo, "kill_node", lambda home, node: cut.append(node))
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
        assert list(demo._hurting(iter(story), tmp_path, injected, Console(quiet=True))) == story
        is_unharmed = bystander.poll() is None
        bystander.kill()
        assert is_unharmed
        assert victim.wait(10) == -9
    assert [(one.fault, one.node, one.rank, one.committed_step) for one in injected] == [
        (Fault.WORKER, "b", 1, 20),
        (Fault.NODE, "b", 1, 40),
    ]
    assert cut == ["b"]
