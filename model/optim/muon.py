"""Muon for the matrices inside the blocks and AdamW for the rest, in one optimizer. Muon is torch.optim.Muon's with match_rms_adamw."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.optim.adamw import AdamW
from model.optim.config import OptimizerConfig
from model.optim.orthogonal import ShardMap, build_shard_maps, orthogonalise_by_owners
from model.parallel.collectives import shard_of

RMS_OF_ADAMW = 0.2
"""Root mean square of an AdamW update's elements, to which Muon's is scaled (arXiv 2502.16982): one learning rate serves both."""


class MuonAdamW(AdamW):
    """Groups with `muon` set take Muon, the others AdamW. Every rank steps at once. Make it with `build_muon_adamw`.

    Needs `state` filled before the first step (`optim.build.initial_state`): momentum_buffer, or step, exp_avg and exp_avg_sq.
    """

    def __init__(self, groups: list[dict[str, Any]], defaults: dict[str, Any], *, shard_maps: Mapping[Tensor, ShardMap]) -> None:
        super().__init__(groups, defaults)
        self._shard_maps = shard_maps

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: None = None, *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> None:
        """As AdamW's; parameters without a gradient must be the same on every rank."""
        for group in self.param_groups:
            if not group["muon"]:
                self._adamw(group, grad_scale, found_inf)
        withheld = None if found_inf is None else found_inf.bool()
        group_of = {matrix: group for group in self.param_groups for matrix in group["params"]}
        matrices = [matrix for matrix in self._shard_maps if matrix.grad is not None]
        while matrices:
            num_ranks = len(self._shard_maps[matrices[0]].blocks)
            owned, matrices = matrices[:num_ranks], matrices[num_ranks:]
            updates = [self._momentum(matrix, group_of[matrix]["momentum"], grad_scale, withheld) for matrix in owned]
            for matrix, update in zip(owned, orthogonalise_by_owners(updates, [self._shard_maps[matrix] for matrix in owned]), strict=True):
                _descend(matrix, update, group_of[matrix], withheld)

    def _momentum(self, matrix: Tensor, momentum: float, grad_scale: Tensor | None, withheld: Tensor | None) -> Tensor:
        """This rank's shard of what is to be orthogonalised (Nesterov), in bf16. A gradient that is withheld leaves the momentum alone."""
        assert matrix.grad is not None
        grad, buffer = shard_of(matrix.grad), shard_of(self.state[matrix]["momentum_buffer"])
        if grad_scale is not None:
            grad.mul_(grad_scale)
        if withheld is not None:
            torch.where(withheld, buffer, grad, out=grad)
        buffer.lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum).bfloat16()


def build_muon_adamw(groups: list[dict[str, Any]], config: OptimizerConfig) -> MuonAdamW:
    """`groups` have `params` and `muon`."""
    matrices = sorted((matrix for group in groups if group["muon"] for matrix in group["params"]), key=Tensor.numel, reverse=True)
    shard_maps = dict(zip(matrices, build_shard_maps(matrices), strict=True))
    defaults = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps, "momentum": config.muon_momentum}
    return MuonAdamW(groups, defaults, shard_maps=shard_maps)


def _descend(matrix: Tensor, update: Tensor, group: dict[str, Any], withheld: Tensor | None) -> None:
    lr, shard = group["lr"], shard_of(matrix)
    moved = shard * (1 - lr * group["weight_decay"])
    moved.add_(update, alpha=-lr * RMS_OF_ADAMW * math.sqrt(max(matrix.shape)))
    shard.copy_(moved if withheld is None else torch.where(withheld, shard, moved))
