"""Activation checkpointing: what of a block the backward computes again.

torchtitan's policies serve where they name nothing: all of a block, or what the compiler chooses. The selective policy keeps what is named:
products and operators by the kind of mixer, products by the feed-forward, and what crossed ranks.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from model.block import Block
from model.compute import ComputeConfig
from model.layers.linear import KEPT_PRODUCT, Keep, Linear, recomputing

CROSSED_RANKS = {torch.ops._c10d_functional.reduce_scatter_tensor.default, torch.ops._c10d_functional.all_to_all_single.default}
"""Operators whose outputs came over tp or cp."""


def checkpoint_activations(model: nn.Module, compute: ComputeConfig) -> None:
    """Makes every block of model.layers compute again in the backward what `compute` does not let it keep."""
    match compute.activation_checkpointing:
        case "full":
            from torchtitan.distributed.activation_checkpoint import FullAC  # a second to import, and seldom needed

            FullAC(FullAC.Config(preserve_rng_state=False)).apply(model)
        case "memory_budget":
            from torchtitan.distributed.activation_checkpoint import MemoryBudgetAC

            MemoryBudgetAC(MemoryBudgetAC.Config(memory_budget=compute.memory_budget)).apply(model)
        case "selective":
            layers = model.get_submodule("layers")
            for name, block in list(layers.named_children()):
                assert isinstance(block, Block)
                layers.register_module(name, _checkpoint_selectively(block, compiles=compute.compile))


def _checkpoint_selectively(block: Block, *, compiles: bool) -> nn.Module:
    """Keeps what crossed ranks, and the products and operators' outputs that mixer and feed-forward name."""
    for name in block.kept_products:
        projection = block.get_submodule(name)
        assert isinstance(projection, Linear), f"{name}: only the product of a Linear can be kept"
        projection.keep = Keep.YES
    if block.norm_first:  # its output is only added to the residual stream; the compiler sees by itself that nobody reads it
        block.ffn.down_proj.keep = Keep.NO if compiles else Keep.UNREAD
    kept = block.kept_operators | CROSSED_RANKS | {KEPT_PRODUCT}

    def policy(ctx: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        is_kept = operator in kept or getattr(operator, "namespace", None) in kept
        return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = create_selective_checkpoint_contexts if compiles else _eager_contexts
    return checkpoint_wrapper(block, context_fn=lambda: contexts(policy), preserve_rng_state=False, early_stop=False)


def _eager_contexts(policy: Callable[..., CheckpointPolicy]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the forward, and its repetition in the backward."""
    forward, again = create_selective_checkpoint_contexts(policy)

    @contextmanager
    def repetition() -> Iterator[None]:
        with again, recomputing():
            yield

    return forward, repetition()
