"""The processes that train together: rendezvous, device, mesh, and a clean end."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from model.parallel.mesh import Mesh, build_mesh
from orchestrator.config import RecoveryConfig, RunConfig
from orchestrator.worker.exchange import Exchange

LOOPBACK = ("127.0.0.1", "localhost")
BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
"""The one backend for each type of device, of all groups of processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    rank: int
    ranks_per_node: int
    device: torch.device
    mesh: Mesh
    exchange: Exchange
    """For the main thread."""
    save_exchange: Exchange
    """For the thread that writes checkpoints."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def ranks_per_row(self) -> int:
        """Ranks along cp and tp share their rows."""
        return self.mesh.parallel.cp * self.mesh.parallel.tp

    @property
    def speaks_for_its_rows(self) -> bool:
        """The first of those that share them tells what was read."""
        return self.rank % self.ranks_per_row == 0

    def leave(self) -> None:
        """Returns when every rank is about to leave. End the process with os._exit after it: gloo's threads may abort an ordinary exit."""
        self.exchange.barrier()
        dist.destroy_process_group()
        self.exchange.gather(None)  # the first rank may host the store, and so leaves last


def build_world(config: RunConfig, variables: Mapping[str, str]) -> World:
    """Joins the other ranks as RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say.

    A hung peer is found by the controller's timeouts; those of the group and the store are only the last resort.
    On CUDA the group is NCCL's alone: gloo would connect every rank with every other through the one store.
    """
    if config.resources.device == "cpu":
        torch.set_num_threads(1)
    rank, world_size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    device = _device(config.resources.device, int(variables["LOCAL_RANK"]))
    timeout = patience(config.recovery)
    if variables["MASTER_ADDR"] in LOOPBACK:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    store = _rendezvous(variables, rank, world_size, timeout)
    dist.init_process_group(BACKENDS[device.type], store=store, rank=rank, world_size=world_size, timeout=timeout)
    return World(
        rank=rank,
        ranks_per_node=int(variables.get("LOCAL_WORLD_SIZE", config.resources.workers_per_node)),
        device=device,
        mesh=build_mesh(config.parallel, device.type),
        exchange=Exchange(dist.PrefixStore("main", store), rank=rank, world_size=world_size),
        save_exchange=Exchange(dist.PrefixStore("save", store.clone()), rank=rank, world_size=world_size),  # type: ignore[attr-defined]
    )


def patience(recovery: RecoveryConfig) -> timedelta:
    """How long a rank waits for others: no less than one of them may take for a step, a start or its part of a checkpoint."""
    return timedelta(seconds=max(recovery.progress_timeout_s, recovery.start_timeout_s, recovery.stop_timeout_s))


def _device(device_type: str, local_rank: int) -> torch.device:
    if device_type == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"resources.device=cuda: rank {local_rank} of this node has no GPU, it sees {torch.cuda.device_count()}; "
            "lower resources.workers_per_node, or use resources.device=cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _rendezvous(variables: Mapping[str, str], rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """The store that ranks meet at. On loopback the first rank listens there only; by itself it would on every interface."""
    address, port = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    agent_hosts = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts_store = rank == 0 and not agent_hosts
    listener = socket.create_server((address, port)) if hosts_store and address in LOOPBACK else None
    store = dist.TCPStore(
        address,
        port,
        world_size,
        hosts_store,
        timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach() if listener else None,
    )
    # The store of torchrun's agent outlives the processes of a restart, and so do their keys.
    return dist.PrefixStore(f"restart{variables.get('TORCHELASTIC_RESTART_COUNT', '0')}", store) if agent_hosts else store
