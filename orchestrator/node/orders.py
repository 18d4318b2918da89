"""What an agent is told to see to, and what it makes of that for each worker. Pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import StorageConfig
from orchestrator.identity import RunIdentity
from orchestrator.messages import Assign, MirrorPlace, Mode, Rendezvous

WORKER_COMMAND = (sys.executable, "-P", "-m", "orchestrator.worker.main")
_RAYS_OWN = ("PYTHONBREAKPOINT",)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpawnOrder:
    """The workers of one node."""

    run: str
    attempt: int
    config_version: int
    storage: StorageConfig
    world_size: int
    first_rank: int
    num_workers: int
    rendezvous: Rendezvous
    mirrored_ranks: range = range(0)
    """Of another node, which this one keeps copies of the snapshots of; none where no node does so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOrder:
    """What an agent is to see to until another order comes; the same order again changes nothing, one of an older attempt is ignored."""

    attempt: int
    mode: Mode
    spawn: SpawnOrder | None = None
    """The workers to start, once, after every process of older attempts is gone; given with Mode.RUN only."""
    wants_evidence: bool = False
    """With Mode.KILL: workers write down where they stand first."""
    buddy: MirrorPlace | None = None
    """Where this node's snapshots are copied to, and where copies of them are; None while that is not known, or for nowhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpec:
    """One process to start. Its environment lacks only the descriptors of its pipes."""

    command: tuple[str, ...]
    environment: dict[str, str]
    directory: Path
    """Where it runs."""
    memory_fds: tuple[int, ...] = ()
    """Files of memory that the worker keeps snapshots in."""
    code: str = ""
    """Stamp of the code that it is to run: see `own_python.code_stamp`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """One worker: its process, and its first order."""

    process: ProcessSpec
    assign: Assign
    log_path: Path


def merge(known: AgentOrder, told: AgentOrder) -> AgentOrder:
    """What an agent is to see to after one more order. Orders may come twice, late and in any order.

    One of an older attempt changes nothing. Within an attempt the mode only goes forward, from RUN over SAVE to KILL, and the workers to
    start are those that were named first: so who was told to kill an attempt never starts it afterwards.
    """
    if told.attempt != known.attempt:
        return max(known, told, key=lambda order: order.attempt)
    return AgentOrder(
        attempt=known.attempt,
        mode=max(known.mode, told.mode, key=list(Mode).index),
        spawn=known.spawn or told.spawn,
        wants_evidence=known.wants_evidence or told.wants_evidence,
        buddy=told.buddy or known.buddy,
    )


def assignments(order: SpawnOrder) -> tuple[Assign, ...]:
    """The first order of each worker of the node, by rank."""
    return tuple(
        Assign(
            run=order.run,
            storage=order.storage,
            config_version=order.config_version,
            attempt=order.attempt,
            rank=order.first_rank + local_rank,
            local_rank=local_rank,
            world_size=order.world_size,
            local_world_size=order.num_workers,
            rendezvous=order.rendezvous,
        )
        for local_rank in range(order.num_workers)
    )


def worker_environment(inherited: Mapping[str, str], *, run: RunIdentity, gpu_ids: tuple[str, ...], agent_pid: int) -> dict[str, str]:
    """What the agent inherited (credentials among it), without what Ray added, with what the workers of the node need: the same for each.

    As under torchrun, every worker of a node sees all of its GPUs and takes the one of its local rank: so they reach each other directly.
    BRAID_RUN, BRAID_RUN_ID and BRAID_AGENT_PID also mark every process that a worker starts.
    """
    kept = {name: value for name, value in inherited.items() if not name.startswith("RAY_") and name not in _RAYS_OWN}
    if gpu_ids:
        kept.pop("OMP_NUM_THREADS", None)
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)
    return kept | {
        "BRAID_RUN": run.name,
        "BRAID_RUN_ID": run.id,
        "BRAID_AGENT_PID": str(agent_pid),
        "PYTHONUNBUFFERED": "1",
    }
