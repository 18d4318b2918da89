"""Several bias-free projections of the same input."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def project(x_BTD: Tensor, *weights_OD: Tensor) -> tuple[Tensor, ...]:
    """x · weightᵀ for each weight, BTO.

    The products of the backward add up in the gradient of x, which each reads and writes once; autograd would write every one by itself,
    and read both and write once more to sum them. No second derivative.
    """
    if torch.compiler.is_compiling():  # which sums them in one pass as well
        return tuple(F.linear(x_BTD, weight_OD) for weight_OD in weights_OD)
    return _Project.apply(x_BTD, *weights_OD)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, *weights_OD: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x_BTD, *weights_OD)
        return tuple(F.linear(x_BTD, weight_OD) for weight_OD in weights_OD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads_BTO: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, *weights_OD = ctx.saved_tensors
        grads_SO = [grad_BTO.flatten(0, -2) for grad_BTO in grads_BTO]
        grad_x_SD = grads_SO[0] @ weights_OD[0]
        for grad_SO, weight_OD in zip(grads_SO[1:], weights_OD[1:], strict=True):
            grad_x_SD.addmm_(grad_SO, weight_OD)
        x_SD = x_BTD.flatten(0, -2)
        return grad_x_SD.view_as(x_BTD), *(grad_SO.T @ x_SD for grad_SO in grads_SO)
