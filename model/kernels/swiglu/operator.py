"""silu(gate) · up in one pass over memory, as operators; the backward computes it again.

The kernels are in `triton_swiglu`, which needs Triton and is imported at the first call.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.operators import contiguous_like


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Of one shape and dtype, bf16 or fp32, as is the result; fp32 inside."""
    return _swiglu(gate, up)


@torch.library.custom_op("braid::swiglu", mutates_args=())
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    from model.kernels.swiglu import triton as triton_swiglu  # Triton: absent on a CPU

    return triton_swiglu.forward(gate.contiguous(), up.contiguous())


@torch.library.custom_op("braid::swiglu_backward", mutates_args=())
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    from model.kernels.swiglu import triton as triton_swiglu

    return triton_swiglu.backward(grad.contiguous(), gate.contiguous(), up.contiguous())


@_swiglu.register_fake
def _swiglu_fake(gate: Tensor, up: Tensor) -> Tensor:
    return contiguous_like(gate)


@_swiglu_backward.register_fake
def _swiglu_backward_fake(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return contiguous_like(gate), contiguous_like(up)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _swiglu_backward(grad, *ctx.saved_tensors)


_swiglu.register_autograd(_differentiate, setup_context=_keep)
