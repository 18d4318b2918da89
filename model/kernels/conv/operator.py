"""Causal convolution, SiLU and L2 normalisation of heads in one pass over memory, as operators; the backward computes them again.

The kernels are in `triton`, which needs Triton and is imported at the first call.
"""

from torch import Tensor

from model.kernels.operators import as_operator, contiguous_like, differentiate


def conv_silu_norm(x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None, *, head_dim: int, scale: float) -> Tensor:
    """y / sqrt(Σ y² + 1e-6) · scale over each head's `head_dim` channels, y being `conv_silu`; BTC in x's dtype, fp32 inside."""
    return _causal_conv(x_BTC, weight_C1W, position_BT, head_dim, scale)


def conv_silu(x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None) -> Tensor:
    """SiLU of the depthwise convolution over the last 4 tokens; BTC in x's dtype, fp32 inside.

    x is bf16 or fp32. `position_BT`, int64, counts tokens since the document's start: nothing earlier is seen. Without it a row is one
    document. ValueError for positions of other rows.
    """
    return _causal_conv(x_BTC, weight_C1W, position_BT, None, 1.0)


@as_operator("causal_conv", empty=lambda x_BTC, *_: contiguous_like(x_BTC))
def _causal_conv(x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None, head_dim: int | None, scale: float) -> Tensor:
    """Normalised per `head_dim` channels, unless that is None."""
    if position_BT is not None and position_BT.shape != x_BTC.shape[:2]:
        raise ValueError(f"positions of {list(position_BT.shape)} tokens for {list(x_BTC.shape[:2])}: build the documents for these rows")
    from model.kernels.conv import triton as kernels  # Triton: absent on a CPU

    return kernels.forward(x_BTC.contiguous(), weight_C1W.contiguous(), _contiguous(position_BT), head_dim=head_dim, scale=scale)


@as_operator("causal_conv_backward", empty=lambda grad_BTC, x_BTC, weight_C1W, *_: (contiguous_like(x_BTC), contiguous_like(weight_C1W)))
def _causal_conv_backward(
    grad_BTC: Tensor, x_BTC: Tensor, weight_C1W: Tensor, position_BT: Tensor | None, head_dim: int | None, scale: float
) -> tuple[Tensor, Tensor]:
    from model.kernels.conv import triton as kernels

    return kernels.backward(
        grad_BTC.contiguous(), x_BTC.contiguous(), weight_C1W.contiguous(), _contiguous(position_BT), head_dim=head_dim, scale=scale
    )


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


differentiate(_causal_conv, _causal_conv_backward)
