"""RMSNorm over a token's channels, and over all heads together."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.declare import Parameter
from model.kernels.dtypes import widen
from model.kernels.norm import definition, operator
from model.kernels.operators import takes_kernels
from model.parallel.collectives import local, sum_both_ways


class RMSNorm(nn.Module):
    """x / rms(x) · weight of this rank's tokens, computed in fp32 and multiplied by the weight before the downcast."""

    def __init__(self, declared: Parameter, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(declared.shape))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, local(self.weight).to(x.dtype), eps=self.eps)

    def of_sum(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x + y, and the norm of that sum."""
        return norm_of_sum(x, y, local(self.weight).to(x.dtype), eps=self.eps)

    def added_to(self, x: Tensor, y: Tensor) -> Tensor:
        """x + the norm of y."""
        return add_norm(x, y, local(self.weight).to(x.dtype), eps=self.eps)


class FullWidthRMSNorm(nn.Module):
    """RMSNorm over all heads together, where each rank holds some of them: the sum of squares is that of the whole vector."""

    def __init__(self, declared: Parameter, eps: float, tp: DeviceMesh | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(declared.shape))
        (self.width,), self.eps, self.tp = declared.shape, eps, tp

    def forward(self, x: Tensor) -> Tensor:
        weight = local(self.weight).to(x.dtype)
        if self.tp is None and takes_kernels(x):
            return operator.rms_norm(x, weight, eps=self.eps)
        wide = widen(x)
        mean_square = sum_both_ways(wide.square().sum(-1, keepdim=True), self.tp) / self.width
        return (wide * (mean_square + self.eps).rsqrt() * widen(weight)).to(x.dtype)


def rms_norm(x: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight over the last dimension, by our kernel where that is taken."""
    return (operator if takes_kernels(x) else definition).rms_norm(x, weight_D, eps=eps)


def norm_of_sum(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and the norm of that sum, by our kernel where that is taken."""
    return (operator if takes_kernels(x, y) else definition).norm_of_sum(x, y, weight_D, eps=eps)


def add_norm(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x + the norm of y, by our kernel where that is taken."""
    return (operator if takes_kernels(x, y) else definition).add_norm(x, y, weight_D, eps=eps)
