"""The processes that train together: rendezvous, device, mesh, and a clean end."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from data_pipeline.order.samples import SampleRef, rows_of_rank
from model.parallel.mesh import Mesh, build_mesh
from orchestrator.config import RunConfig

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    rank: int
    device: torch.device
    mesh: Mesh
    group: dist.ProcessGroup
    """Every rank, on the CPU; for the main thread."""
    save_group: dist.ProcessGroup
    """Every rank, on the CPU; for the thread that writes checkpoints."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def rank_rows(self, batch_rows: int) -> range:
        """The rows of the global batch that this rank trains on; ranks along cp and tp share theirs."""
        return rows_of_rank(self.mesh.dp_rank, num_ranks=self.mesh.parallel.dp, batch_rows=batch_rows)

    def exchange(self, samples: Sequence[SampleRef], *, stop: bool) -> tuple[list[SampleRef], bool]:
        """(the samples that the ranks read, in the order of the global batch; whether any rank is to stop), in one small collective.

        Every rank gives equally many. Ranks along cp and tp share their rows: the first of them speaks for all.
        """
        mine = torch.tensor([int(stop), *(number for sample in samples for number in (sample.epoch, sample.index))])
        of_ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(of_ranks, mine, group=self.group)
        num_sharing = self.mesh.parallel.cp * self.mesh.parallel.tp
        refs = torch.cat([of_rank[1:] for of_rank in of_ranks[::num_sharing]]).view(-1, 2).tolist()
        return [SampleRef(epoch, index) for epoch, index in refs], any(bool(of_rank[0]) for of_rank in of_ranks)

    def leave(self) -> None:
        """Returns when every rank is about to leave. End the process with os._exit after it: gloo's threads may abort an ordinary exit."""
        dist.barrier(group=self.group)
        dist.destroy_process_group()


def build_world(config: RunConfig, variables: Mapping[str, str]) -> World:
    """Joins the other ranks as RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say.

    A hung peer is found by the controller's timeouts; those of the groups are only the last resort.
    """
    if config.resources.device == "cpu":
        torch.set_num_threads(1)
    rank, world_size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    device = _device(config.resources.device, int(variables["LOCAL_RANK"]))
    timeout = timedelta(seconds=max(config.recovery.progress_timeout_s, config.recovery.start_timeout_s))
    if variables["MASTER_ADDR"] in LOOPBACK:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = _rendezvous(variables, rank, world_size, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    return World(
        rank=rank,
        device=device,
        mesh=build_mesh(config.parallel, device.type),
        group=dist.new_group(backend="gloo", timeout=timeout),
        save_group=dist.new_group(backend="gloo", timeout=timeout),
    )


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
    hosts_store = rank == 0 and variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listener = socket.create_server((address, port)) if hosts_store and address in LOOPBACK else None
    return dist.TCPStore(
        address,
        port,
        world_size,
        hosts_store,
        timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach() if listener else None,
    )
