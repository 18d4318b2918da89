"""RMSNorm over each head times SiLU(gate), in one pass over memory, as operators; the backward computes it again.

The kernels are in `triton`, which needs Triton and is imported at the first call.
"""

from torch import Tensor

from model.kernels.operators import as_operator, contiguous_like, differentiate


def gated_norm(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight · SiLU(gate); BTNV in gate's dtype. Both are bf16 or fp32; fp32 inside."""
    return _gated_norm(x_BTNV, gate_BTNV, weight_V, eps)


def _empty_gradients(grad_BTNV: Tensor, x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return contiguous_like(x_BTNV), contiguous_like(gate_BTNV), contiguous_like(weight_V)


@as_operator("gated_norm", empty=lambda x_BTNV, gate_BTNV, *_: contiguous_like(gate_BTNV))
def _gated_norm(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float) -> Tensor:
    from model.kernels.gated_norm import triton as kernels  # Triton: absent on a CPU

    return kernels.forward(x_BTNV.contiguous(), gate_BTNV.contiguous(), weight_V.contiguous(), eps=eps)


@as_operator("gated_norm_backward", empty=_empty_gradients)
def _gated_norm_backward(
    grad_BTNV: Tensor, x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from model.kernels.gated_norm import triton as kernels

    return kernels.backward(grad_BTNV.contiguous(), x_BTNV.contiguous(), gate_BTNV.contiguous(), weight_V.contiguous(), eps=eps)


differentiate(_gated_norm, _gated_norm_backward)
