"""The seam to torchtitan: what of it runs alone is taken from here, and nothing else imports it."""

import os

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torchtitan.distributed.utils import clip_grad_norm_ as clip_grad_norm_

from model.config import ParallelConfig, validate_world


def build_mesh(parallel: ParallelConfig, device_type: str) -> DeviceMesh:
    """The mesh with axes dp_shard and tp over the initialised default process group; ranks of one tp group are neighbours.

    Raises ValueError when the world has another size than the layout.
    """
    validate_world(parallel, torch.distributed.get_world_size())
    mesh = init_device_mesh(device_type, (parallel.dp_shard, parallel.tp), mesh_dim_names=("dp_shard", "tp"))
    if parallel.tp > 1:
        mesh._flatten("world")  # lets the gradient norm be one all-reduce: in two, ranks may differ in the last bit and drift apart
    return mesh


def set_determinism(seed: int) -> None:
    """The same bits from the same inputs: seeds torch and turns every non-deterministic kernel into an error.

    Call before the first CUDA kernel: cuBLAS reads its workspace setting once.
    """
    torch.manual_seed(seed)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # else torch.empty costs a kernel
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
