"""The gated delta rule's log_decay and beta in one pass over memory, as operators; the backward computes them again.

The kernels are in `triton`, which needs Triton and is imported at the first call.
"""

import torch
from torch import Tensor

from model.kernels.operators import as_operator, contiguous_like, differentiate


def decay_and_beta(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    """log_decay_BTN = −exp(A_log)·softplus(a + dt_bias) and beta_BTN = 2·sigmoid(b), fp32.

    a and b are bf16 or fp32, A_log and dt_bias fp32.
    """
    return _gates(a_BTN, b_BTN, A_log_N, dt_bias_N)


def _empty(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    return a_BTN.new_empty(a_BTN.shape, dtype=torch.float32), b_BTN.new_empty(b_BTN.shape, dtype=torch.float32)


def _empty_gradients(grad_log_decay_BTN: Tensor, grad_beta_BTN: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(contiguous_like(x) for x in inputs)


@as_operator("gates", empty=_empty)
def _gates(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    from model.kernels.gates import triton as kernels  # Triton: absent on a CPU

    return kernels.forward(a_BTN.contiguous(), b_BTN.contiguous(), A_log_N.contiguous(), dt_bias_N.contiguous())


@as_operator("gates_backward", empty=_empty_gradients)
def _gates_backward(
    grad_log_decay_BTN: Tensor, grad_beta_BTN: Tensor, a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from model.kernels.gates import triton as kernels

    tensors = (grad_log_decay_BTN, grad_beta_BTN, a_BTN, b_BTN, A_log_N, dt_bias_N)
    return kernels.backward(*(x.contiguous() for x in tensors))


differentiate(_gates, _gates_backward)
