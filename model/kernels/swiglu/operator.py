"""silu(gate) · up in one pass over memory, as operators; the backward computes it again.

The kernels are in `triton`, which needs Triton and is imported at the first call.
"""

from torch import Tensor

from model.kernels.operators import as_operator, contiguous_like, differentiate


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up of two tensors of one shape and dtype, bf16 or fp32, in that dtype; fp32 inside."""
    return _swiglu(gate, up)


@as_operator("swiglu", empty=lambda gate, up: contiguous_like(gate))
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    from model.kernels.swiglu import triton as kernels  # Triton: absent on a CPU

    return kernels.forward(gate.contiguous(), up.contiguous())


@as_operator("swiglu_backward", empty=lambda grad, gate, up: (contiguous_like(gate), contiguous_like(up)))
def _swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    from model.kernels.swiglu import triton as kernels

    return kernels.backward(grad.contiguous(), gate.contiguous(), up.contiguous())


differentiate(_swiglu, _swiglu_backward)
