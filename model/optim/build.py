"""The optimizer of a run: AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from model.declare import Parameters
from model.optim.adamw import AdamW
from model.optim.config import OptimizerConfig
from model.optim.groups import group_of, takes_muon, validate_groups
from model.optim.muon import build_muon_adamw

State = dict[Tensor, dict[str, Tensor]]


def build_optimizer(model: nn.Module, declared: Parameters, config: OptimizerConfig) -> AdamW:
    """An optimizer with its initial state for the model's parameters, each of which `declared` says what it is.

    Its groups have equal settings and an `lr_scale`: whoever steps sets a group's `lr` to the step's learning rate times that.
    Raises ValueError for a group of the configuration that takes no parameter.
    """
    validate_groups({name: declared[name] for name, _ in model.named_parameters()}, config)
    groups = _param_groups(model, declared, config)
    if config.name == "muon":
        optimizer: AdamW = build_muon_adamw(groups, config)
    else:
        optimizer = AdamW(groups, {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps})
    optimizer.state.update(initial_state(optimizer))
    return optimizer


def initial_state(optimizer: Optimizer) -> State:
    """What every parameter's state is before the first step: Adam's step and moments, Muon's momentum; sharded like the parameter."""
    return {parameter: _initial(parameter, group) for group in optimizer.param_groups for parameter in group["params"]}


def _initial(parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    if group["muon"]:
        return {"momentum_buffer": torch.zeros_like(parameter)}
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _param_groups(model: nn.Module, declared: Parameters, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters with the same settings together, in the order of the model."""
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name, declared[name], config)
        decay = config.weight_decay if group.weight_decay is None else group.weight_decay
        muon = config.name == "muon" and takes_muon(declared[name])
        empty = {"params": [], "lr_scale": group.lr_scale, "weight_decay": decay, "muon": muon}
        groups.setdefault((group.lr_scale, decay, muon), empty)["params"].append(parameter)
    return list(groups.values())
