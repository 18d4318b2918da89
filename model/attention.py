"""Causal attention with full-width QK-norm and rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.config import ModelConfig
from model.layers import FullWidthRMSNorm, Linear, widen
from model.tensor_parallel import copy_to_ranks, sum_over_ranks


class Attention(nn.Module):
    """x_BTD to out_BTD. q and k are normalised over all heads together, before the split into heads and before RoPE."""

    def __init__(self, config: ModelConfig, tp: DeviceMesh | None) -> None:
        super().__init__()
        width = config.num_heads * config.head_dim
        self.q_proj = Linear(config.d_model, width)
        self.k_proj = Linear(config.d_model, width)
        self.v_proj = Linear(config.d_model, width)
        self.o_proj = Linear(width, config.d_model)
        self.q_norm = FullWidthRMSNorm(width, config.norm_eps, tp)
        self.k_norm = FullWidthRMSNorm(width, config.norm_eps, tp)
        self.head_dim, self.rope_theta, self.tp = config.head_dim, config.rope_theta, tp

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = copy_to_ranks(x_BTD, self.tp)
        q_BNTK = rotate(self._split_heads(self.q_norm(self.q_proj(x_BTD))), self.rope_theta)
        k_BNTK = rotate(self._split_heads(self.k_norm(self.k_proj(x_BTD))), self.rope_theta)
        out_BNTK = F.scaled_dot_product_attention(q_BNTK, k_BNTK, self._split_heads(self.v_proj(x_BTD)), is_causal=True)
        return sum_over_ranks(self.o_proj(out_BNTK.transpose(1, 2).flatten(2)), self.tp)

    def _split_heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def rotate(x_BNTK: Tensor, theta: float) -> Tensor:
    """RoPE (arXiv 2104.09864) in fp32: channel i and i + K/2 of token t turn by t · theta^(−2i/K)."""
    num_tokens, head_dim = x_BNTK.shape[-2:]
    wide = widen(x_BNTK)
    channels = torch.arange(0, head_dim, 2, device=wide.device, dtype=wide.dtype)
    tokens = torch.arange(num_tokens, device=wide.device, dtype=wide.dtype)
    angle_TK = torch.outer(tokens, theta ** (-channels / head_dim))
    cos_TK, sin_TK = angle_TK.cos(), angle_TK.sin()
    first, second = wide.chunk(2, dim=-1)
    return torch.cat([first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK], dim=-1).to(x_BNTK.dtype)
