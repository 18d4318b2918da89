"""What a checkpoint of training holds: every parameter and every Adam moment, as flat names to tensors to save from and load into."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def training_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`model.NAME` and `optimizer.NAME.KEY`, sharing memory with the model and the optimizer; sharded ones are DTensors.

    The optimizer must have stepped, or been prepared by `prepare_optimizer`. Names rather than indices make it independent of the layout.
    """
    state = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter)
        if not moments:
            raise ValueError(
                f"{name}: the optimizer has no state for it; checkpoint only after a step in which every parameter has a gradient"
            )
        state |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    return state


def prepare_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Gives a fresh AdamW its state, as its first step would, so that a checkpoint can be loaded into it."""
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
