"""What an agent is told to start, and the environment that each worker gets. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import StorageConfig
from orchestrator import codec
from orchestrator.messages import Mode, Rendezvous

WORKER_COMMAND = (sys.executable, "-m", "orchestrator.worker.main")
_RAYS_OWN = ("PYTHONBREAKPOINT",)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpawnOrder:
    """The workers of one node."""

    run: str
    attempt: int
    config_version: int
    storage: StorageConfig
    device: str
    """cuda or cpu."""
    world_size: int
    first_rank: int
    num_workers: int
    rendezvous: Rendezvous


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOrder:
    """What an agent is to see to until another order comes; the same order again changes nothing, one of an older attempt is ignored."""

    attempt: int
    mode: Mode
    spawn: SpawnOrder | None = None
    """The workers to start, once, after every process of older attempts is gone; given with Mode.RUN only."""
    wants_evidence: bool = False
    """With Mode.KILL: workers write down where they stand first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """One process to start. Its environment lacks only BRAID_REPORT_FD."""

    rank: int
    command: tuple[str, ...]
    environment: dict[str, str]
    log_path: Path


def worker_environment(
    inherited: Mapping[str, str], order: SpawnOrder, *, local_rank: int, gpu_ids: tuple[str, ...], agent_pid: int
) -> dict[str, str]:
    """What the agent inherited (credentials among it), without what Ray added, with what the worker needs.

    As under torchrun, every worker of a node sees all of its GPUs and takes the one of its LOCAL_RANK: so they reach each other directly.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith("RAY_") and name not in _RAYS_OWN}
    if order.device == "cuda":
        kept.pop("OMP_NUM_THREADS", None)
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
    return kept | {
        "RANK": str(order.first_rank + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(order.world_size),
        "LOCAL_WORLD_SIZE": str(order.num_workers),
        "MASTER_ADDR": order.rendezvous.address,
        "MASTER_PORT": str(order.rendezvous.port),
        "BRAID_RUN": order.run,
        "BRAID_ATTEMPT": str(order.attempt),
        "BRAID_CONFIG_VERSION": str(order.config_version),
        "BRAID_STORAGE": codec.to_json(order.storage).decode(),
        "BRAID_AGENT_PID": str(agent_pid),
        "PYTHONUNBUFFERED": "1",
    }
