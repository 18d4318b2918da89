"""The process groups of a layout."""

from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from model.parallel.config import ParallelConfig, validate_world


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """What the ranks are to each other. Make it with `build_mesh`."""

    parallel: ParallelConfig
    fsdp: DeviceMesh
    """Parameters are sharded over its last axis, and replicated over its first if it has two."""
    tp: DeviceMesh | None
    """None where tp = 1; so is `cp`."""
    cp: DeviceMesh | None

    @property
    def dp_rank(self) -> int:
        """Which of parallel.dp shares of the rows this rank trains on."""
        return dist.get_rank() // (self.parallel.cp * self.parallel.tp)


def build_mesh(parallel: ParallelConfig, device_type: str) -> Mesh:
    """Over the initialised default process group; ranks of one tp group are neighbours, then those of one cp group.

    Raises ValueError when the world has another size than the layout.
    """
    validate_world(parallel, dist.get_world_size())
    num_shards = parallel.dp_shard * parallel.cp
    sizes, names = (parallel.dp_replicate, num_shards, parallel.tp), ("dp_replicate", "fsdp", "tp")
    parameters = init_device_mesh(device_type, sizes, mesh_dim_names=names)
    if parallel.tp > 1:
        # Lets the gradient norm be one all-reduce: in two, ranks may differ in the last bit and drift apart.
        parameters["fsdp", "tp"]._flatten("shards")
    rows = None
    if parallel.cp > 1:
        rows = init_device_mesh(device_type, (parallel.dp, parallel.cp, parallel.tp), mesh_dim_names=("dp", "cp", "tp"))
    return Mesh(
        parallel=parallel,
        fsdp=parameters["dp_replicate", "fsdp"] if parallel.dp_replicate > 1 else parameters["fsdp"],
        tp=parameters["tp"] if parallel.tp > 1 else None,
        cp=rows["cp"] if rows is not None else None,
    )
