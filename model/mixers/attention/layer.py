"""Causal attention with full-width QK-norm and rotary positions."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.config import ModelConfig
from model.documents import Documents
from model.kernels.attention.operator import attend
from model.kernels.operators import takes_kernels
from model.kernels.rotary import operator as rotary_triton
from model.layers.layers import FullWidthRMSNorm, Linear, widen
from model.layers.projection import project
from model.parallel.collectives import gather_tokens, heads_to_tokens, local, scatter_tokens, tokens_to_heads

Rotary = tuple[Tensor, Tensor]
"""cos and sin, each (1 or B) × T × 1 × K/2."""


class Attention(nn.Module):
    """x_BTD to out_BTD of this rank's tokens. q and k are normalised over all heads together, before they are split and rotated."""

    def __init__(self, config: ModelConfig, *, window: int | None, tp: DeviceMesh | None, cp: DeviceMesh | None) -> None:
        super().__init__()
        width = config.num_heads * config.head_dim
        self.q_proj = Linear(config.d_model, width)
        self.k_proj = Linear(config.d_model, width)
        self.v_proj = Linear(config.d_model, width)
        self.o_proj = Linear(width, config.d_model)
        self.q_norm = FullWidthRMSNorm(width, config.norm_eps, tp)
        self.k_norm = FullWidthRMSNorm(width, config.norm_eps, tp)
        self.head_dim, self.window, self.tp, self.cp = config.head_dim, window, tp, cp

    def forward(self, x_BTD: Tensor, rotary: Rotary | None, documents: Documents | None) -> Tensor:
        x_BTD = gather_tokens(x_BTD, self.tp)
        q_BTC, k_BTC, v_BTC = project(x_BTD, *(local(projection.weight) for projection in (self.q_proj, self.k_proj, self.v_proj)))
        projected = (self.q_norm(q_BTC), self.k_norm(k_BTC), v_BTC)
        q_BTNK, k_BTNK, v_BTNK = self._exchange(*(x.unflatten(-1, (-1, self.head_dim)) for x in projected))
        if rotary is not None:
            q_BTNK, k_BTNK = rotate(q_BTNK, rotary), rotate(k_BTNK, rotary)
        out_BTNK = attend(q_BTNK=q_BTNK, k_BTNK=k_BTNK, v_BTNK=v_BTNK, window=self.window, documents=documents)
        return scatter_tokens(self.o_proj(heads_to_tokens(out_BTNK, self.cp).flatten(2)), self.tp)

    def _exchange(self, q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor) -> tuple[Tensor, ...]:
        """To all tokens of this rank's heads, in one exchange."""
        if self.cp is None:
            return q_BTNK, k_BTNK, v_BTNK
        return tokens_to_heads(torch.cat([q_BTNK, k_BTNK, v_BTNK], -1), self.cp).chunk(3, -1)


def rotary_tables(position: Tensor, *, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Of RoPE (arXiv 2104.09864) at positions (1 or B) × T: channel i of token t turns by t · theta^(−2i/K)."""
    channels = torch.arange(0, head_dim, 2, device=position.device, dtype=dtype)
    angle = (position.to(dtype).unsqueeze(-1) * theta ** (-channels / head_dim)).unsqueeze(-2)
    return angle.cos(), angle.sin()


def rotate(x_BTNK: Tensor, rotary: Rotary) -> Tensor:
    """Turns the pairs of channels i and i + K/2, in fp32."""
    cos, sin = rotary
    if takes_kernels(x_BTNK):
        return rotary_triton.rotate(x_BTNK, cos, sin)
    first, second = widen(x_BTNK).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BTNK.dtype)
