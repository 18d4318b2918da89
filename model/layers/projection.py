"""Bias-free projections, of weights that may be wider than what they project."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def project(x_BTD: Tensor, *weights_OD: Tensor) -> tuple[Tensor, ...]:
    """x · weightᵀ for each weight rounded to x's dtype, BTO.

    The products of the backward add up in the gradient of x, which each reads and writes once; autograd would write every one by itself,
    and read both and write once more to sum them. The gradient of a wider weight is not rounded to x's dtype, unless
    compiled. No second derivative.
    """
    if torch.compiler.is_compiling():  # which sums them in one pass as well
        return tuple(F.linear(x_BTD, weight_OD.to(x_BTD.dtype)) for weight_OD in weights_OD)
    return _Project.apply(x_BTD, *weights_OD)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, *weights_OD: Tensor) -> tuple[Tensor, ...]:
        narrow_OD = [weight_OD.to(x_BTD.dtype) for weight_OD in weights_OD]
        ctx.save_for_backward(x_BTD, *narrow_OD)
        ctx.dtypes = [weight_OD.dtype for weight_OD in weights_OD]
        return tuple(F.linear(x_BTD, weight_OD) for weight_OD in narrow_OD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads_BTO: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, *weights_OD = ctx.saved_tensors
        grads_SO = [grad_BTO.flatten(0, -2) for grad_BTO in grads_BTO]
        grad_x_SD = grads_SO[0] @ weights_OD[0]
        for grad_SO, weight_OD in zip(grads_SO[1:], weights_OD[1:], strict=True):
            grad_x_SD.addmm_(grad_SO, weight_OD)
        x_SD = x_BTD.flatten(0, -2)
        grads_OD = [multiply(grad_SO.T, x_SD, dtype) for grad_SO, dtype in zip(grads_SO, ctx.dtypes, strict=True)]
        return grad_x_SD.view_as(x_BTD), *grads_OD


def multiply(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """left · right of one dtype, never rounded to less than `dtype`, which is that or fp32."""
    if dtype == left.dtype:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=dtype)
    return left.to(dtype) @ right.to(dtype)


def add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left · right, never rounded to less than total's precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
