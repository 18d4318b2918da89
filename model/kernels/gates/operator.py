"""The gated delta rule's log_decay and beta in one pass over memory, as operators; the backward computes them again.

The kernels are in `triton_gates`, which needs Triton and is imported at the first call.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels.operators import contiguous_like


def decay_and_beta(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    """log_decay_BTN = −exp(A_log)·softplus(a + dt_bias) and beta_BTN = 2·sigmoid(b), fp32.

    a and b are bf16 or fp32, A_log and dt_bias fp32.
    """
    return _gates(a_BTN, b_BTN, A_log_N, dt_bias_N)


@torch.library.custom_op("braid::gates", mutates_args=())
def _gates(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    from model.kernels.gates import triton as triton_gates  # Triton: absent on a CPU

    return triton_gates.forward(a_BTN.contiguous(), b_BTN.contiguous(), A_log_N.contiguous(), dt_bias_N.contiguous())


@torch.library.custom_op("braid::gates_backward", mutates_args=())
def _gates_backward(
    grad_log_decay_BTN: Tensor, grad_beta_BTN: Tensor, a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from model.kernels.gates import triton as triton_gates

    tensors = (grad_log_decay_BTN, grad_beta_BTN, a_BTN, b_BTN, A_log_N, dt_bias_N)
    return triton_gates.backward(*(x.contiguous() for x in tensors))


@_gates.register_fake
def _gates_fake(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    return a_BTN.new_empty(a_BTN.shape, dtype=torch.float32), b_BTN.new_empty(b_BTN.shape, dtype=torch.float32)


@_gates_backward.register_fake
def _gates_backward_fake(
    grad_log_decay_BTN: Tensor, grad_beta_BTN: Tensor, a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return contiguous_like(a_BTN), contiguous_like(b_BTN), contiguous_like(A_log_N), contiguous_like(dt_bias_N)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_log_decay_BTN: Tensor, grad_beta_BTN: Tensor) -> tuple[Tensor, ...]:
    return _gates_backward(grad_log_decay_BTN, grad_beta_BTN, *ctx.saved_tensors)


_gates.register_autograd(_differentiate, setup_context=_keep)
