"""Causal convolution, SiLU and L2 normalisation of heads in plain torch: the definition of `operator`, and what a CPU runs."""

import torch.nn.functional as F
from torch import Tensor

from model.kernels.dtypes import widen

NORM_EPS = 1e-6
"""Keeps the norm of a head of zeros finite."""


def conv_silu_norm(x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None, *, head_dim: int, scale: float) -> Tensor:
    """`conv_silu`, then `l2_normalise` over each head's `head_dim` channels; BTC in x's dtype."""
    return l2_normalise(conv_silu(x_BTC, weight_C1W, position_BT).unflatten(-1, (-1, head_dim)), scale=scale).flatten(2)


def conv_silu(x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None) -> Tensor:
    """SiLU of the depthwise convolution over the last W tokens; BTC, computed in x's dtype.

    `position_BT`, int64, counts tokens since the document's start: nothing earlier is seen. Without it a row is one document.
    Shifted multiplies: on a CPU they are faster than conv1d.
    """
    weight_WC = weight_C1W.squeeze(1).T
    width, num_tokens = weight_WC.shape[0], x_BTC.shape[1]
    padded = F.pad(x_BTC, (0, 0, width - 1, 0))
    out_BTC = x_BTC * weight_WC[-1]
    for back in range(1, width):
        earlier_BTC = padded[:, width - 1 - back : width - 1 - back + num_tokens] * weight_WC[width - 1 - back]
        if position_BT is not None:
            earlier_BTC = earlier_BTC * (position_BT >= back).unsqueeze(-1)
        out_BTC = out_BTC + earlier_BTC
    return F.silu(out_BTC)


def l2_normalise(x_BTNK: Tensor, *, scale: float) -> Tensor:
    """x / sqrt(Σ x² + 1e-6) · scale over each head's K; BTNK in x's dtype, computed in fp32 or wider."""
    wide = widen(x_BTNK)
    return (wide * ((wide.square().sum(-1, keepdim=True) + NORM_EPS).rsqrt() * scale)).to(x_BTNK.dtype)
