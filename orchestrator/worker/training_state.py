"""What a checkpoint of training holds: parameters, optimizer state and the spike guard's memory, as flat names to tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.train.spikes import SpikeGuard


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
    return state if spikes is None else state | {"spikes.history": spikes.history}
