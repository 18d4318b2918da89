"""Causal attention with full-width QK-norm and rotary positions."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.kernels.attention.operator import attend
from model.kernels.operators import takes_kernels
from model.kernels.rotary import definition, operator
from model.layers.linear import Linear, project
from model.layers.norm import FullWidthRMSNorm
from model.mixers.attention.config import AttentionConfig
from model.mixers.attention.costs import attention_parameters
from model.mixers.context import Context, Rotary
from model.parallel.collectives import gather_tokens, heads_to_tokens, scatter_tokens, tokens_to_heads

aten = torch.ops.aten
KEPT_OPERATORS = frozenset(
    {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_fused_attention_overrideable.default,
        aten._scaled_dot_product_attention_math.default,
        "torch_attn",
    }
)
"""Attention's own; `varlen_attn`'s exists only once it is imported, so that it is known by its namespace."""


class Attention(nn.Module):
    """x_BTD to out_BTD of this rank's tokens. q and k are normalised over all heads together, before they are split and rotated."""

    def __init__(self, config: AttentionConfig, *, window: int | None, tp: DeviceMesh | None, cp: DeviceMesh | None) -> None:
        super().__init__()
        declared = attention_parameters(config)
        self.q_proj = Linear(declared["q_proj.weight"])
        self.k_proj = Linear(declared["k_proj.weight"])
        self.v_proj = Linear(declared["v_proj.weight"])
        self.o_proj = Linear(declared["o_proj.weight"])
        self.q_norm = FullWidthRMSNorm(declared["q_norm.weight"], config.norm_eps, tp)
        self.k_norm = FullWidthRMSNorm(declared["k_norm.weight"], config.norm_eps, tp)
        self.head_dim, self.window, self.tp, self.cp = config.head_dim, window, tp, cp

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        q_BTC, k_BTC, v_BTC = project(gather_tokens(x_BTD, self.tp), self.q_proj, self.k_proj, self.v_proj)
        projected = (self.q_norm(q_BTC), self.k_norm(k_BTC), v_BTC)
        q_BTNK, k_BTNK, v_BTNK = self._exchange(*(x.unflatten(-1, (-1, self.head_dim)) for x in projected))
        if context.rotary is not None:
            q_BTNK, k_BTNK = rotate(q_BTNK, context.rotary), rotate(k_BTNK, context.rotary)
        out_BTNK = attend(q_BTNK=q_BTNK, k_BTNK=k_BTNK, v_BTNK=v_BTNK, window=self.window, documents=context.documents)
        return scatter_tokens(self.o_proj(heads_to_tokens(out_BTNK, self.cp).flatten(2)), self.tp)

    def _exchange(self, q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor) -> tuple[Tensor, ...]:
        """To all tokens of this rank's heads, in one exchange."""
        if self.cp is None:
            return q_BTNK, k_BTNK, v_BTNK
        return tokens_to_heads(torch.cat([q_BTNK, k_BTNK, v_BTNK], -1), self.cp).chunk(3, -1)


def rotate(x_BTNK: Tensor, rotary: Rotary) -> Tensor:
    """Turns the pairs of channels i and i + K/2, by our kernel where that is taken."""
    return (operator if takes_kernels(x_BTNK) else definition).rotate(x_BTNK, *rotary)
