"""The same bits from the same inputs."""

import os

import torch


def set_determinism(seed: int) -> None:
    """Seeds torch and turns every non-deterministic kernel into an error.

    Call before the first CUDA kernel: cuBLAS reads its workspace setting once.
    """
    torch.manual_seed(seed)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # else torch.empty costs a kernel
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
