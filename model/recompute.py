"""The seam to torchtitan: what of it runs alone is taken from here, and nothing else imports it."""

import os

import torch
from torch import nn

from model.config import ComputeConfig
from model.kernels.delta_rule.operator import FORWARD_OPERATORS


def checkpoint_activations(model: nn.Module, compute: ComputeConfig) -> None:
    """Makes every block of model.layers recompute in the backward what `compute` does not let it keep."""
    if compute.activation_checkpointing == "none":
        return
    from torchtitan.distributed.activation_checkpoint import FullAC, MemoryBudgetAC, SelectiveAC  # a second to import, and seldom needed

    class SelectiveWithDeltaRule(SelectiveAC):
        """Keeps the delta rule's output as well, beside those of the matrix products and of attention, also a CPU's."""

        def get_save_ops(self) -> set:
            return super().get_save_ops() | FORWARD_OPERATORS | {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default}

    policies = {
        "selective": lambda: SelectiveWithDeltaRule(SelectiveAC.Config(preserve_rng_state=False)),
        "full": lambda: FullAC(FullAC.Config(preserve_rng_state=False)),
        "memory_budget": lambda: MemoryBudgetAC(MemoryBudgetAC.Config(memory_budget=compute.memory_budget)),
    }
    policies[compute.activation_checkpointing]().apply(model)


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
