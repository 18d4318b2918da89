"""What a checkpoint of training holds: parameters, optimizer state and the spike guard's memory, as flat names to tensors."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.parallel.collectives import shard_of
from model.train.spikes import SpikeGuard

SPIKES = "spikes."
"""What the name of the spike guard's memory begins with: it holds NaN where it knows nothing yet."""


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer, spikes: SpikeGuard | None = None) -> dict[str, Tensor]:
    """`model.NAME`, `optimizer.NAME.KEY` and `spikes.history`, sharing memory with what they are of, to save from and load into.

    Sharded ones are DTensors. The optimizer has stepped or, as `build_optimizer` makes it, has its initial state. Names rather than indices
    make it independent of the layout.
    """
    state = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter)
        if not moments:
            raise ValueError(f"{name}: the optimizer has no state for it; make the optimizer with build_optimizer")
        state |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    return state if spikes is None else state | {f"{SPIKES}history": spikes.history}


def not_finite_in(state: Mapping[str, Tensor]) -> str:
    """Which parameter or state of the optimizer holds, on this rank, what is no number; "" for none. Reads all of it once."""
    shards = {name: shard_of(tensor) for name, tensor in state.items() if not name.startswith(SPIKES)}
    filled = {name: shard for name, shard in shards.items() if shard.numel()}
    if not filled:
        return ""
    peaks = torch.stack([peak.double() for peak in torch._foreach_norm([*filled.values()], math.inf)])
    return next((name for name, is_finite in zip(filled, peaks.isfinite().tolist(), strict=True) if not is_finite), "")


def shards_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A rank's part of each tensor; those of which it has nothing are left out."""
    shards = ((name, shard_of(tensor.detach())) for name, tensor in state.items())
    return {name: shard for name, shard in shards if shard.numel()}


def written_here(state: Mapping[str, Tensor], *, rank: int, world_size: int) -> list[str]:
    """The tensors of which this rank writes its part: of ranks that have the same part, one does, which their name chooses."""
    return [name for name, tensor in state.items() if _writes(name, tensor, rank, world_size)]


def _writes(name: str, tensor: Tensor, rank: int, world_size: int) -> bool:
    chosen = zlib.crc32(name.encode())
    if not isinstance(tensor, DTensor):
        return rank == chosen % world_size and tensor.numel() > 0
    coordinates = tensor.device_mesh.get_coordinate()
    assert coordinates is not None, "every rank is on the mesh"
    for size, coordinate, placement in zip(tensor.device_mesh.shape, coordinates, tensor.placements, strict=True):
        if placement.is_replicate():
            if coordinate != chosen % size:
                return False
            chosen //= size
    return tensor.to_local().numel() > 0
