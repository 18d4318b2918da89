"""Muon for the matrices inside the blocks and AdamW for the rest, in one optimizer. Muon is torch.optim.Muon's with match_rms_adamw."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from model.config import OptimizerConfig
from model.orthogonal import Spread, build_spreads, orthogonalise_dealt

RMS_OF_ADAMW = 0.2
"""Of an AdamW update by element, which Muon's is scaled to (arXiv 2502.16982), so that one learning rate serves both."""


class MuonAdamW(Optimizer):
    """Groups with `muon` set take Muon, the others AdamW. Every rank steps at once. Make it with `build_muon_adamw`.

    Needs `state` filled before the first step (`optim.initial_state`): momentum_buffer, or step, exp_avg and exp_avg_sq.
    """

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any], *, spreads: Mapping[Tensor, Spread]) -> None:
        super().__init__(groups, defaults)
        self._spreads = spreads

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Parameters without a gradient stay as they are; they must be the same on every rank. Takes no closure."""
        for group in self.param_groups:
            if not group["muon"]:
                self._adamw(group)
        group_of = {matrix: group for group in self.param_groups for matrix in group["params"]}
        matrices = [matrix for matrix in self._spreads if matrix.grad is not None]
        while matrices:
            num_ranks = len(self._spreads[matrices[0]].blocks)
            dealt, matrices = matrices[:num_ranks], matrices[num_ranks:]
            updates = [self._momentum(matrix, group_of[matrix]["momentum"]) for matrix in dealt]
            for matrix, update in zip(dealt, orthogonalise_dealt(updates, [self._spreads[matrix] for matrix in dealt]), strict=True):
                _descend(matrix, update, group_of[matrix])

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            [_local(parameter) for parameter in parameters],
            [_local_grad(parameter) for parameter in parameters],
            [_local(state["exp_avg"]) for state in states],
            [_local(state["exp_avg_sq"]) for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        """This rank's shard of what is to be orthogonalised (Nesterov), in bf16."""
        grad, buffer = _local_grad(matrix), _local(self.state[matrix]["momentum_buffer"])
        buffer.lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum).bfloat16()


def build_muon_adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> MuonAdamW:
    """`groups` have `params` and `muon`. A collective of all ranks."""
    matrices = sorted((matrix for group in groups if group["muon"] for matrix in group["params"]), key=Tensor.numel, reverse=True)
    spreads = dict(zip(matrices, build_spreads(matrices), strict=True))
    defaults = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps, "momentum": config.muon_momentum}
    return MuonAdamW(groups, defaults, spreads=spreads)


def _descend(matrix: Tensor, update: Tensor, group: dict[str, Any]) -> None:
    lr, local = group["lr"], _local(matrix)
    local.mul_(1 - lr * group["weight_decay"])
    local.add_(update, alpha=-lr * RMS_OF_ADAMW * math.sqrt(max(matrix.shape)))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_grad(parameter: Tensor) -> Tensor:
    """Sharded like the parameter."""
    grad = parameter.grad
    assert grad is not None
    if isinstance(grad, DTensor) and isinstance(parameter, DTensor):
        grad = grad.redistribute(placements=parameter.placements)
    return _local(grad)
