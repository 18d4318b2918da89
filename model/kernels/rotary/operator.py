"""Rotary positions in one pass over memory, as an operator; its backward is itself by the opposite angle.

The kernel is in `triton`, which needs Triton and is imported at the first call.
"""

from torch import Tensor

from model.kernels.operators import as_operator, contiguous_like, differentiate


def rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs of channels i and i + K/2; BTNK in x's dtype, bf16 or fp32; fp32 inside.

    cos and sin, (1 or B) × T × 1 × K/2, are fp32 and have no gradients.
    """
    return _rotate(x_BTNK, cos, sin, False)


@as_operator("rotate", empty=lambda x_BTNK, *_: contiguous_like(x_BTNK))
def _rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor, backwards: bool) -> Tensor:
    from model.kernels.rotary import triton as kernels  # Triton: absent on a CPU

    return kernels.rotate(x_BTNK.contiguous(), cos.contiguous(), sin.contiguous(), backwards=backwards)


def _gradient(grad_BTNK: Tensor, cos: Tensor, sin: Tensor, backwards: bool) -> tuple[Tensor]:
    return (_rotate(grad_BTNK, cos, sin, not backwards),)


differentiate(_rotate, _gradient, keep=lambda inputs, output: inputs[1:])
