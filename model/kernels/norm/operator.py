"""RMSNorm, also of a sum and added to one, in one pass over memory, as operators; the backward computes the norm again.

x, y and the results have one dtype, bf16 or fp32; fp32 inside. The kernels are in `triton`, which needs Triton and is imported at the
first call.
"""

from torch import Tensor

from model.kernels.operators import as_operator, contiguous_like, differentiate


def rms_norm(x: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight over the last dimension."""
    return _rms_norm(x, weight_D, eps)


def norm_of_sum(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and the norm of that sum."""
    return _norm_of_sum(x, y, weight_D, eps)


def add_norm(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x + the norm of y."""
    return _add_norm(x, y, weight_D, eps)


@as_operator("rms_norm", empty=lambda x, *_: contiguous_like(x))
def _rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    from model.kernels.norm import triton as kernels  # Triton: absent on a CPU

    return kernels.forward(x.contiguous(), weight_D.contiguous(), eps=eps)[1]


@as_operator("norm_of_sum", empty=lambda x, *_: (contiguous_like(x), contiguous_like(x)))
def _norm_of_sum(x: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from model.kernels.norm import triton as kernels

    return kernels.forward(x.contiguous(), weight_D.contiguous(), eps=eps, added_before=y.contiguous())


@as_operator("add_norm", empty=lambda x, *_: contiguous_like(x))
def _add_norm(x: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    from model.kernels.norm import triton as kernels

    return kernels.forward(y.contiguous(), weight_D.contiguous(), eps=eps, added_after=x.contiguous())[1]


@as_operator("rms_norm_backward", empty=lambda grad, x, weight_D, *_: (contiguous_like(x), contiguous_like(weight_D)))
def _rms_norm_backward(grad: Tensor, x: Tensor, weight_D: Tensor, grad_x: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x, `grad_x` included, and of the weight."""
    from model.kernels.norm import triton as kernels

    grad_x = None if grad_x is None else grad_x.contiguous()
    return kernels.backward(grad.contiguous(), x.contiguous(), weight_D.contiguous(), grad_x, eps=eps)


def _gradients_of_norm(grad: Tensor, x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _rms_norm_backward(grad, x, weight_D, None, eps)


def _gradients_of_norm_of_sum(grad_sum: Tensor, grad: Tensor, total: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, ...]:
    grad_x, grad_weight_D = _rms_norm_backward(grad, total, weight_D, grad_sum, eps)
    return grad_x, grad_x, grad_weight_D


def _gradients_of_add_norm(grad: Tensor, y: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, ...]:
    return grad, *_rms_norm_backward(grad, y, weight_D, None, eps)


differentiate(_rms_norm, _gradients_of_norm)
differentiate(_norm_of_sum, _gradients_of_norm_of_sum, keep=lambda inputs, output: (output[0], *inputs[2:]))
differentiate(_add_norm, _gradients_of_add_norm, keep=lambda inputs, output: inputs[1:])
