"""Rotary positions in one pass over memory, as an operator; its backward is itself by the opposite angle.

The kernel is in `triton_rotary`, which needs Triton and is imported at the first call.
"""

from typing import Any

import torch
from torch import Tensor


def rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs of channels i and i + K/2; BTNK in x's dtype, bf16 or fp32.

    cos and sin, (1 or B) × T × 1 × K/2, are fp32 and have no gradients.
    """
    return _rotate(x_BTNK, cos, sin, False)


@torch.library.custom_op("braid::rotate", mutates_args=())
def _rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor, backwards: bool) -> Tensor:
    from model.kernels.rotary import triton as triton_rotary  # Triton: absent on a CPU

    return triton_rotary.rotate(x_BTNK.contiguous(), cos.contiguous(), sin.contiguous(), backwards=backwards)


@_rotate.register_fake
def _rotate_fake(x_BTNK: Tensor, cos: Tensor, sin: Tensor, backwards: bool) -> Tensor:
    return torch.empty_like(x_BTNK, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    _, cos, sin, ctx.backwards = inputs
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, grad_BTNK: Tensor) -> tuple[Tensor | None, ...]:
    return _rotate(grad_BTNK, *ctx.saved_tensors, not ctx.backwards), None, None, None


_rotate.register_autograd(_differentiate, setup_context=_keep)
