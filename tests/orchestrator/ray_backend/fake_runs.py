"""Runs of fake workers on a real Ray cluster: submitting them, and looking at what becomes of them."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import DataConfig, StorageConfig
from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import ObjectStore, with_prefix
from model.config import ModelConfig
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import RecoveryConfig, ResourcesConfig, RunConfig, TrainConfig
from orchestrator.control.events import RunSubmitted
from orchestrator.control.history import new_history, read_state
from orchestrator.control.state import RunState, Stage, terms_of
from orchestrator.identity import RunIdentity
from orchestrator.node.processes import pids_with_environment
from orchestrator.ray_backend import client
from tests.orchestrator.node.waiting import wait_for

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@dataclass(frozen=True)
class FakeRun:
    config: RunConfig
    store: ObjectStore

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def identity(self) -> RunIdentity:
        return RunIdentity(name=self.name, id=self.state().run_id)

    def start(self) -> Any:
        return client.start_controller(self.identity, self.config.storage, worker_command=FAKE_WORKER)

    def state(self) -> RunState:
        return read_state(self.store)

    def pids(self) -> list[int]:
        return sorted(pids_with_environment("BRAID_RUN_ID", self.identity.id))

    def wait_for_step(self, step: int, *, attempt: int = 1) -> dict[str, Any]:
        """The status in which every worker of the attempt has finished the step."""

        def reached() -> dict[str, Any] | None:
            status = self.status()
            workers = status["workers"]
            far = len(workers) == self.config.parallel.world_size and all(worker["step"] >= step for worker in workers)
            return status if far and status["attempt"] == attempt and status["state"] == "running" else None

        return wait_for(reached, f"step {step} of attempt {attempt}")

    def status(self) -> dict[str, Any]:
        import ray

        handle = client.find_controller(self.identity, self.config.storage)
        assert handle is not None, f"the controller has ended: {self.state()}"
        status: dict[str, Any] = ray.get(handle.status.remote(), timeout=30)
        return status

    def let_finish(self) -> RunState:
        self.store.put("finish", b"")
        return self.wait_for_end()

    def wait_for_end(self) -> RunState:
        """The run's last state, once its controller is gone too."""
        wait_for(lambda: self.state().stage is Stage.ENDED, "the end of the run")
        wait_for(lambda: client.find_controller(self.identity, self.config.storage) is None, "the end of the controller")
        return self.state()


def submit(
    root: Path, name: str, *, run_id: str | None = None, num_steps: int = 100_000, num_workers: int = 2, **recovery: float
) -> FakeRun:
    """A run in the store, without a controller. One worker on each node, and nobody stands by, unless told otherwise."""
    config = RunConfig(
        name=name,
        model=ModelConfig(vocab_size=64, d_model=8, num_layers=1, num_heads=1, head_dim=8, gdn_key_dim=8, gdn_value_dim=8, ffn_width=8),
        data=DataConfig(seq_len=8),
        storage=StorageConfig(root=str(root)),
        optimizer=OptimizerConfig(),
        train=TrainConfig(num_steps=num_steps, batch_rows=num_workers, micro_rows=1),
        parallel=ParallelConfig(dp_shard=num_workers),
        recovery=RecoveryConfig(**{"standbys": False, **recovery}),
        resources=ResourcesConfig(device="cpu", workers_per_node=1),
    )
    store = with_prefix(LocalStore(root), f"runs/{name}")
    store.create("config/0001.json", codec.to_json(config))
    new_history(store).append(
        RunSubmitted(at_s=time.time(), terms=terms_of(config, 1), run_id=uuid.uuid4().hex if run_id is None else run_id)
    )
    return FakeRun(config, store)
