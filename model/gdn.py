"""Gated DeltaNet with negative eigenvalues, as in Olmo Hybrid (arXiv 2412.06464, 2411.12537, 2604.03444)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.config import ModelConfig
from model.kernels.chunked import gated_delta_rule_chunked
from model.layers import Linear, widen
from model.tensor_parallel import copy_to_ranks, local, local_partial, sum_over_ranks


class GatedDeltaNet(nn.Module):
    """x_BTD to out_BTD; the ranks share the heads."""

    def __init__(self, config: ModelConfig, tp: DeviceMesh | None) -> None:
        super().__init__()
        key_width, value_width = config.num_heads * config.gdn_key_dim, config.num_heads * config.gdn_value_dim
        self.q_proj = Linear(config.d_model, key_width)
        self.k_proj = Linear(config.d_model, key_width)
        self.v_proj = Linear(config.d_model, value_width)
        self.a_proj = Linear(config.d_model, config.num_heads)
        self.b_proj = Linear(config.d_model, config.num_heads)
        self.g_proj = Linear(config.d_model, value_width)
        self.o_proj = Linear(value_width, config.d_model)
        self.q_conv = CausalConv(key_width, config.conv_width)
        self.k_conv = CausalConv(key_width, config.conv_width)
        self.v_conv = CausalConv(value_width, config.conv_width)
        self.gates = Gates(config.num_heads)
        self.o_norm = GatedHeadNorm(config.gdn_value_dim, config.gdn_norm_eps)
        self.key_dim, self.value_dim = config.gdn_key_dim, config.gdn_value_dim
        self.backend, self.tp = config.gdn_backend, tp

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = copy_to_ranks(x_BTD, self.tp)
        q_BTNK = l2_normalise(self._split_heads(self.q_conv(self.q_proj(x_BTD)), self.key_dim), scale=self.key_dim**-0.5)
        k_BTNK = l2_normalise(self._split_heads(self.k_conv(self.k_proj(x_BTD)), self.key_dim), scale=1.0)
        v_BTNV = self._split_heads(self.v_conv(self.v_proj(x_BTD)), self.value_dim)
        log_decay_BTN, beta_BTN = self.gates(self.a_proj(x_BTD), self.b_proj(x_BTD))
        delta_rule = delta_rule_fla if _uses_fla(self.backend, x_BTD.device) else delta_rule_torch
        out_BTNV = delta_rule(q=q_BTNK, k=k_BTNK, v=v_BTNV, log_decay=log_decay_BTN, beta=beta_BTN)
        gated_BTNV = self.o_norm(out_BTNV, self._split_heads(self.g_proj(x_BTD), self.value_dim))
        return sum_over_ranks(self.o_proj(gated_BTNV.flatten(2)), self.tp)

    def _split_heads(self, x_BTD: Tensor, head_width: int) -> Tensor:
        return x_BTD.unflatten(-1, (-1, head_width))


class CausalConv(nn.Module):
    """Depthwise convolution over the last `width` tokens, then SiLU. As shifted multiplies: faster than conv1d on a CPU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))

    def forward(self, x_BTC: Tensor) -> Tensor:
        weight_WC = local(self.weight).squeeze(1).T
        width, num_tokens = weight_WC.shape[0], x_BTC.shape[1]
        padded = F.pad(x_BTC, (0, 0, width - 1, 0))
        return F.silu(sum((padded[:, i : i + num_tokens] * weight_WC[i] for i in range(1, width)), padded[:, :num_tokens] * weight_WC[0]))


class Gates(nn.Module):
    """Decay and write strength. A module of its own, so that these parameters stay fp32 where the rest computes in bf16."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))

    def forward(self, a_BTN: Tensor, b_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """log_decay_BTN = −exp(A_log)·softplus(a + dt_bias) and beta_BTN = 2·sigmoid(b), in fp32 or wider."""
        log_decay_BTN = -local(self.A_log).exp() * F.softplus(widen(a_BTN) + local(self.dt_bias))
        return log_decay_BTN, 2 * widen(b_BTN).sigmoid()


class GatedHeadNorm(nn.Module):
    """RMSNorm over V with one weight for all heads, times SiLU(gate); in fp32."""

    def __init__(self, value_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(value_dim))
        self.eps = eps

    def forward(self, x_BTNV: Tensor, gate_BTNV: Tensor) -> Tensor:
        wide = widen(x_BTNV)
        normed = wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt() * widen(local_partial(self.weight))
        return (normed * F.silu(widen(gate_BTNV))).to(gate_BTNV.dtype)


def l2_normalise(x_BTNK: Tensor, *, scale: float) -> Tensor:
    """x / sqrt(sum x² + 1e-6) · scale over each head's K, in fp32."""
    wide = widen(x_BTNK)
    return (wide * ((wide.square().sum(-1, keepdim=True) + 1e-6).rsqrt() * scale)).to(x_BTNK.dtype)


def _uses_fla(backend: str, device: torch.device) -> bool:
    return backend == "fla" or (backend == "auto" and device.type == "cuda")


def delta_rule_torch(*, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    return gated_delta_rule_chunked(q=widen(q), k=widen(k), v=widen(v), log_decay=log_decay, beta=beta)


def delta_rule_fla(*, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """fla's kernel on our gates, norms and scale: its own flags for them change the numbers (allow_neg_eigval alone does nothing)."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # Triton: slow to import, and absent on a CPU

    out_BTNV, _ = chunk_gated_delta_rule(q=q, k=k, v=v, g=log_decay, beta=beta, scale=1.0)
    return out_BTNV
