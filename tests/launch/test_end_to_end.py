"""The whole thing as a person uses it: the command line in processes of its own, a real Ray cluster, real workers, an S3 server."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.s3 import create_bucket
from launch.runs.record import read_run
from orchestrator.node.processes import kill_all, pids_with_environment
from orchestrator.ray_backend.local.cluster import stop_local_cluster
from tests.orchestrator.ray_backend.listening import LOOPBACK, listening_addresses

pytestmark = pytest.mark.xdist_group("ray")

SECRET = "Marker-of-the-secret-key-0123456789"
SMALL = (
    "name=first", "data.dataset=small", "data.seq_len=32", "parallel.dp_shard=1", "train.batch_rows=2", "train.micro_rows=2",
    "model.vocab_size=512", "model.d_model=32", "model.num_heads=2", "model.head_dim=16", "model.gdn_key_dim=8", "model.gdn_value_dim=16",
    "model.ffn_width=64", "checkpoint.every_steps=20",
)  # fmt: skip
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Braid:
    """The command line, with a home and an S3 store of its own."""

    environment: dict[str, str]
    storage: StorageConfig
    home: Path
    project: Path
    """Where it is started, as its console script is: a folder of names that braid and its libraries have too."""

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What it printed on stdout."""
        done = self.run(*arguments)
        assert done.returncode == status, f"braid {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "launch.cli", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.project, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert SECRET not in done.stdout + done.stderr
        return done

    def about(self, *arguments: str, status: int = 0) -> str:
        """A command about a run in this store."""
        return self(*arguments, "--storage", self.storage.root, "--endpoint-url", self.storage.endpoint_url, status=status)

    def workers(self) -> list[int]:
        """Processes of the run, and not of another test's run of the same name."""
        return [pid for pid in pids_with_environment("BRAID_RUN", "first") if pid in pids_with_environment("BRAID_HOME", str(self.home))]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.about("status", "first", "--json"))
        return found


def wait_until(holds: Callable[[], bool], what: str) -> None:
    give_up_at_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_at_s, f"waited {PATIENCE_S:g} s for {what}"
        time.sleep(0.2)


def phases_at(looks: list[dict[str, Any]], braid: Braid) -> list[str]:
    """Those of the workers at another look, which is kept."""
    looks.append(braid.status())
    return [worker["phase"] for worker in looks[-1]["workers"]]


@pytest.fixture
def braid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Braid]:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "BRAID_ADDRESS", "BRAID_STORAGE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("BRAID_HOME", str(home))
    endpoint = tmp_path / "endpoint"
    command = [sys.executable, "-m", "launch.servers.moto", "--endpoint-file", str(endpoint)]
    with (tmp_path / "moto.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(endpoint.exists, "the S3 server")
        storage = StorageConfig(root="s3://bucket/prefix", endpoint_url=endpoint.read_text().strip())
        create_bucket(storage)
        yield Braid(environment=dict(os.environ), storage=storage, home=home, project=_project(tmp_path))
    finally:
        stop_local_cluster(home)
        server.kill()
        server.wait()
        assert kill_all(lambda: pids_with_environment("BRAID_HOME", str(home))) == []


def _project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    for name in ("launch", "orchestrator"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise AssertionError(__file__)\n")
    for name in ("model", "json", "typing", "ray", "torch", "numpy"):
        (project / f"{name}.py").write_text("raise AssertionError(__file__)\n")
    return project


def secrets_in_process_arguments() -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if SECRET.encode() in arguments:
            found.append(f"{pid}: {arguments!r}")
    return found


def secrets_at_rest(braid: Braid, directories: list[Path]) -> list[str]:
    store = open_store(braid.storage)
    files = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
    found = [info.key for info in store.list("") if SECRET.encode() in store.get(info.key)]
    return found + [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def test_a_run_is_submitted_watched_stopped_resumed_finished_and_verified(braid: Braid, tmp_path: Path) -> None:
    # given a dataset
    (tmp_path / "corpus.txt").write_text("a fox jumps over a dog, a dog jumps over a fox\n" * 400)
    assert braid.about("data", "build", "small", str(tmp_path / "corpus.txt"), "--vocab-size", "300") == "small\n"

    # when a run that would never end is submitted, it trains after the submitting shell is gone
    settings = (*SMALL, f"storage.root={braid.storage.root}", f"storage.endpoint_url={braid.storage.endpoint_url}")
    assert braid("submit", "tiny", *settings, "train.num_steps=1000000") == "first\n"
    wait_until(lambda: read_run(braid.storage, "first").state.committed_step >= 20, "the first checkpoint")
    looks: list[dict[str, Any]] = []
    wait_until(lambda: phases_at(looks, braid) == ["training"], "a moment between two checkpoints")
    status = looks[-1]
    (worker,) = status["workers"]
    assert (status["state"], status["live"], worker["rank"]) == ("running", True, 0)
    assert "run first, attempt 1" in braid.about("logs", "first")
    assert secrets_in_process_arguments() == []
    workers = braid.workers()
    assert worker["pid"] in workers
    assert set() < listening_addresses(workers) <= LOOPBACK

    # and stopped, it has a checkpoint of its last step, and no worker
    braid.about("stop", "first")
    stopped = braid.status()
    assert (stopped["state"], stopped["workers"]) == ("stopped", [])
    assert stopped["last_committed_step"] == stopped["step"] >= 20
    assert braid.workers() == []

    # and resumed with a new end, it goes on from there and finishes
    end = stopped["step"] + 5
    assert braid.about("resume", "first", f"train.num_steps={end}", "--follow") == "first\n"
    finished = braid.status()
    assert (finished["state"], finished["step"], finished["attempt"]) == ("finished", end, 2)
    assert braid.workers() == []

    # and the secret key is nowhere but in the environment: one that is planted is found, no other
    ray_directory = Path((braid.home / "local-cluster/ray-dir").read_text())
    open_store(braid.storage).put("planted", SECRET.encode())
    assert secrets_at_rest(braid, [braid.home, ray_directory]) == ["planted"]

    # then everything that reports works without the cluster
    braid("cluster", "down")
    assert braid.about("verify", "first").startswith(f"VERIFIED run first: {end:,} steps")
    assert json.loads(braid.about("checkpoints", "first", "--verify", "--json"))[0]["step"] == end
    assert f"finished at step {end}" in braid.about("logs", "first")
    assert [run["state"] for run in json.loads(braid.about("runs", "--json"))] == ["finished"]
