"""RMSNorm, also of a sum and added to one, in one pass over memory, as operators; the backward computes the norm again.

x, y and the results have one dtype, bf16 or fp32; fp32 inside. The kernels are in `triton_norm`, which needs Triton and is imported
at the first call.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.operators import contiguous_like


def rms_norm(x: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight over the last dimension."""
    return _rms_norm(x, weight_D, eps)


def norm_of_sum(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and the norm of that."""
    return _norm_of_sum(x, y, weight_D, eps)


def add_norm(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x + the norm of y."""
    return _add_norm(x, y, weight_D, eps)


@torch.library.custom_op("braid::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    from model.kernels.norm import triton as triton_norm  # Triton: absent on a CPU

    return triton_norm.forward(x.contiguous(), weight_D.contiguous(), eps=eps)[1]


@torch.library.custom_op("braid::norm_of_sum", mutates_args=())
def _norm_of_sum(x: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from model.kernels.norm import triton as triton_norm

    return triton_norm.forward(x.contiguous(), weight_D.contiguous(), eps=eps, added_before=y.contiguous())


@torch.library.custom_op("braid::add_norm", mutates_args=())
def _add_norm(x: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    from model.kernels.norm import triton as triton_norm

    return triton_norm.forward(y.contiguous(), weight_D.contiguous(), eps=eps, added_after=x.contiguous())[1]


@torch.library.custom_op("braid::rms_norm_backward", mutates_args=())
def _rms_norm_backward(grad: Tensor, x: Tensor, weight_D: Tensor, grad_x: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x, `grad_x` included, and of the weight."""
    from model.kernels.norm import triton as triton_norm

    grad_x = None if grad_x is None else grad_x.contiguous()
    return triton_norm.backward(grad.contiguous(), x.contiguous(), weight_D.contiguous(), grad_x, eps=eps)


@_rms_norm.register_fake
def _rms_norm_fake(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return contiguous_like(x)


@_norm_of_sum.register_fake
def _norm_of_sum_fake(x: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return contiguous_like(x), contiguous_like(x)


@_add_norm.register_fake
def _add_norm_fake(x: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return contiguous_like(x)


@_rms_norm_backward.register_fake
def _rms_norm_backward_fake(grad: Tensor, x: Tensor, weight_D: Tensor, grad_x: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return contiguous_like(x), contiguous_like(weight_D)


def _keep_x(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    x, weight_D, ctx.eps = inputs
    ctx.save_for_backward(x, weight_D)


def _differentiate_norm(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_rms_norm_backward(grad, *ctx.saved_tensors, None, ctx.eps), None


def _keep_sum(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    *_, weight_D, ctx.eps = inputs
    ctx.save_for_backward(output[0], weight_D)


def _differentiate_norm_of_sum(ctx: Any, grad_sum: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x, grad_weight_D = _rms_norm_backward(grad, *ctx.saved_tensors, grad_sum, ctx.eps)
    return grad_x, grad_x, grad_weight_D, None


def _keep_y(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    _, y, weight_D, ctx.eps = inputs
    ctx.save_for_backward(y, weight_D)


def _differentiate_add_norm(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad, *_rms_norm_backward(grad, *ctx.saved_tensors, None, ctx.eps), None


_rms_norm.register_autograd(_differentiate_norm, setup_context=_keep_x)
_norm_of_sum.register_autograd(_differentiate_norm_of_sum, setup_context=_keep_sum)
_add_norm.register_autograd(_differentiate_add_norm, setup_context=_keep_y)
