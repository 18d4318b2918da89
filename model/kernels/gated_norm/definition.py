"""RMSNorm over each head times SiLU(gate) in plain torch: the definition of `operator`, and what a CPU runs."""

import torch.nn.functional as F
from torch import Tensor

from model.kernels.dtypes import widen


def gated_norm(x_BTNV: Tensor, gate_BTNV: Tensor, weight_V: Tensor, *, eps: float) -> Tensor:
    """x / sqrt(mean x² + eps) · weight · SiLU(gate); BTNV in gate's dtype, computed in fp32 or wider."""
    wide = widen(x_BTNV)
    normed = wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt() * widen(weight_V)
    return (normed * F.silu(widen(gate_BTNV))).to(gate_BTNV.dtype)
