"""Rotary positions (RoPE, arXiv 2104.09864) in plain torch: the definition of `operator`, what a CPU runs, and the angles of both."""

import torch
from torch import Tensor

from model.kernels.dtypes import widen


def rotary_tables(position: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, each (1 or B) × T × 1 × K/2, at positions (1 or B) × T: pair i of token t turns by t · theta^(−2i/K)."""
    channels = torch.arange(0, head_dim, 2, device=position.device, dtype=dtype)
    angle = (position.to(dtype).unsqueeze(-1) * theta ** (-channels / head_dim)).unsqueeze(-2)
    return angle.cos(), angle.sin()


def rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs of channels i and i + K/2; BTNK in x's dtype, computed in fp32 or wider."""
    first, second = widen(x_BTNK).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BTNK.dtype)
