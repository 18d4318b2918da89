"""RMSNorm, also of a sum and added to one, in plain torch: the definition of `operator`, and what a CPU runs.

x, y and the results have one dtype; the norm is computed in fp32 or wider and multiplied by the weight before it is rounded.
"""

from torch import Tensor

from model.kernels.dtypes import widen


def rms_norm(x: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight over the last dimension."""
    wide = widen(x)
    return (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * widen(weight_D)).to(x.dtype)


def norm_of_sum(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """x + y, and the norm of that sum."""
    total = x + y
    return total, rms_norm(total, weight_D, eps=eps)


def add_norm(x: Tensor, y: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """x + the norm of y."""
    return x + rms_norm(y, weight_D, eps=eps)
