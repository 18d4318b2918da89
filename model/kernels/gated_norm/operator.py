"""RMSNorm over each head times SiLU(gate), in one pass over memory, as operators; the backward computes it again.

The kernels are in `triton_head_norm`, which needs Triton and is imported at the first call.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.operators import contiguous_like


def gated_norm(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight · SiLU(gate); BTNV in gate's dtype. Both are bf16 or fp32; fp32 inside."""
    return _gated_norm(x_BTNV, gate_BTNV, weight_V, eps)


@torch.library.custom_op("braid::gated_norm", mutates_args=())
def _gated_norm(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float) -> Tensor:
    from model.kernels.gated_norm import triton as triton_head_norm  # Triton: absent on a CPU

    return triton_head_norm.forward(x_BTNV.contiguous(), gate_BTNV.contiguous(), weight_V.contiguous(), eps=eps)


@torch.library.custom_op("braid::gated_norm_backward", mutates_args=())
def _gated_norm_backward(
    grad_BTNV: Tensor, x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from model.kernels.gated_norm import triton as triton_head_norm

    return triton_head_norm.backward(grad_BTNV.contiguous(), x_BTNV.contiguous(), gate_BTNV.contiguous(), weight_V.contiguous(), eps=eps)


@_gated_norm.register_fake
def _gated_norm_fake(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float) -> Tensor:
    return contiguous_like(gate_BTNV)


@_gated_norm_backward.register_fake
def _gated_norm_backward_fake(
    grad_BTNV: Tensor, x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return contiguous_like(x_BTNV), contiguous_like(gate_BTNV), contiguous_like(weight_V)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_BTNV: Tensor) -> tuple[Tensor | None, ...]:
    return *_gated_norm_backward(grad_BTNV, *ctx.saved_tensors, ctx.eps), None


_gated_norm.register_autograd(_differentiate, setup_context=_keep)
