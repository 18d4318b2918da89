"""Bias-free projections, of weights that may be wider than what they project."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.declare import Parameter
from model.parallel.collectives import local


class Keep(Enum):
    """What selective checkpointing does with a projection's product; `recompute.checkpoint_activations` says it, by name."""

    NO = "no"
    """It is computed again in the backward."""
    YES = "yes"
    UNREAD = "unread"
    """Nobody's backward reads it: it is neither kept nor computed again."""


class Linear(nn.Module):
    """A projection by this rank's part of a declared weight."""

    def __init__(self, declared: Parameter) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(declared.shape))
        self.keep = Keep.NO

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self)[0]


def project(x_BTD: Tensor, *projections: Linear) -> tuple[Tensor, ...]:
    """x through several projections that share it, each BTO."""
    return project_by(x_BTD, [local(each.weight) for each in projections], [each.keep for each in projections])


def project_by(x_BTD: Tensor, weights_OD: Sequence[Tensor], keeps: Sequence[Keep]) -> tuple[Tensor, ...]:
    """x · weightᵀ for each weight rounded to x's dtype, BTO.

    The products of the backward add up in the gradient of x, which each reads and writes once; autograd would write every one by itself,
    and read both and write once more to sum them. The gradient of a wider weight is not rounded to x's dtype, unless
    compiled. No second derivative.
    """
    if torch.compiler.is_compiling():  # which sums them in one pass as well
        return tuple(_product(x_BTD, weight_OD.to(x_BTD.dtype), keep) for weight_OD, keep in zip(weights_OD, keeps, strict=True))
    return _Project.apply(x_BTD, keeps, *weights_OD)


_is_recomputing: ContextVar[bool] = ContextVar("_is_recomputing", default=False)


@contextmanager
def recomputing() -> Iterator[None]:
    """Inside, the forward is computed again for a backward: products that nobody reads are left out."""
    token = _is_recomputing.set(True)
    try:
        yield
    finally:
        _is_recomputing.reset(token)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, keeps: Sequence[Keep], *weights_OD: Tensor) -> tuple[Tensor, ...]:
        narrow_OD = [weight_OD.to(x_BTD.dtype) for weight_OD in weights_OD]
        ctx.save_for_backward(x_BTD, *narrow_OD)
        ctx.dtypes = [weight_OD.dtype for weight_OD in weights_OD]
        return tuple(_product(x_BTD, weight_OD, keep) for weight_OD, keep in zip(narrow_OD, keeps, strict=True))

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
        return grad_x_SD.view_as(x_BTD), None, *grads_OD


def _product(x_BTD: Tensor, weight_OD: Tensor, keep: Keep) -> Tensor:
    match keep:
        case Keep.YES:
            return torch.ops.braid.kept_product(x_BTD, weight_OD)
        case Keep.UNREAD:
            return torch.ops.braid.unread_product(x_BTD, weight_OD)
    return F.linear(x_BTD, weight_OD)


def _unread_product(x_BTD: Tensor, weight_OD: Tensor) -> Tensor:
    if _is_recomputing.get():
        return x_BTD.new_empty(*x_BTD.shape[:-1], weight_OD.shape[0])
    return F.linear(x_BTD, weight_OD)


# Operators of their own, so that a policy of checkpointing tells these products from others.
_library = torch.library.Library("braid", "FRAGMENT")
_library.define("kept_product(Tensor x_BTD, Tensor weight_OD) -> Tensor")
_library.define("unread_product(Tensor x_BTD, Tensor weight_OD) -> Tensor")
_library.impl("kept_product", F.linear, "CompositeExplicitAutograd")
_library.impl("unread_product", _unread_product, "CompositeExplicitAutograd")


def _keep_factors(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_product(ctx: Any, grad_BTO: Tensor) -> tuple[Tensor, Tensor]:
    x_BTD, weight_OD = ctx.saved_tensors
    return grad_BTO @ weight_OD, grad_BTO.flatten(0, -2).T @ x_BTD.flatten(0, -2)


torch.library.register_autograd("braid::kept_product", _differentiate_product, setup_context=_keep_factors, lib=_library)
KEPT_PRODUCT = torch.ops.braid.kept_product.default


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
