"""An agent of a run that has the name of its test, and orders to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from orchestrator.config import RecoveryConfig
from orchestrator.identity import RunIdentity
from orchestrator.messages import Mode, Rendezvous
from orchestrator.node.agent import Agent, AgentIdentity, Holding, build_agent
from orchestrator.node.orders import AgentOrder, SpawnOrder
from orchestrator.records.keys import certain_of_run
from tests.orchestrator.node.scripted import MEET, command


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the node has its files. A run is named by its test, so that no other test's processes are taken for its own."""
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def agent_of(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Agents of the run, which was submitted, and whose workers run a piece of code."""
    open_store(storage(tmp_path)).put(f"{certain_of_run(tmp_path.name)}0001.json", b"submitted")
    agents: list[Agent] = []

    def agent_of(code: str, *, num_standbys: int = 0, clock: Callable[[], float] = time.monotonic, **recovery: float) -> Agent:
        identity = AgentIdentity(
            run=RunIdentity(name=tmp_path.name),
            node="a",
            storage=storage(tmp_path),
            worker_command=command(code),
            num_standbys=num_standbys,
        )
        holding = Holding(address="127.0.0.1", gpus=("GPU-1",))
        agents.append(build_agent(identity, holding, RecoveryConfig(**recovery), clock=clock))
        return agents[-1]

    yield agent_of
    for agent in agents:
        agent.close()


def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root=str(tmp_path / "store"))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., AgentOrder]:
    def run(attempt: int, *, num_workers: int = 1, rendezvous: Rendezvous = MEET) -> AgentOrder:
        spawn = SpawnOrder(
            run=tmp_path.name,
            attempt=attempt,
            config_version=1,
            storage=storage(tmp_path),
            world_size=num_workers,
            first_rank=0,
            num_workers=num_workers,
            rendezvous=rendezvous,
        )
        return AgentOrder(attempt=attempt, mode=Mode.RUN, spawn=spawn)

    return run
