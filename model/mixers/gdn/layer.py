"""Gated DeltaNet with negative eigenvalues, as in Olmo Hybrid (arXiv 2412.06464, 2411.12537, 2604.03444)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.config import Backend, ModelConfig
from model.documents import Documents
from model.kernels.conv import operator as conv_triton
from model.kernels.delta_rule.operator import gated_delta_rule
from model.kernels.gated_norm import operator as head_norm_triton
from model.kernels.gates import operator as gates_triton
from model.layers.layers import Linear, widen
from model.layers.projection import project
from model.parallel.collectives import gather_tokens, heads_to_tokens, local, local_partial, own_heads, scatter_tokens, tokens_to_heads

Gate = tuple[Tensor, Tensor]
"""A_log_N and dt_bias_N of one layer as parameters, fp32 or wider."""


class GatedDeltaNet(nn.Module):
    """x_BTD to out_BTD of this rank's tokens; inside, the ranks share the heads."""

    def __init__(self, config: ModelConfig, *, tp: DeviceMesh | None, cp: DeviceMesh | None) -> None:
        super().__init__()
        key_width, value_width = config.num_heads * config.gdn_key_dim, config.num_heads * config.gdn_value_dim
        self.q_proj = Linear(config.d_model, key_width)
        self.k_proj = Linear(config.d_model, key_width)
        self.v_proj = Linear(config.d_model, value_width)
        self.a_proj = Linear(config.d_model, config.num_heads)
        self.b_proj = Linear(config.d_model, config.num_heads)
        self.g_proj = Linear(config.d_model, value_width)
        self.o_proj = Linear(value_width, config.d_model)
        self.q_conv = CausalConv(key_width, config.conv_width, cp)
        self.k_conv = CausalConv(key_width, config.conv_width, cp)
        self.v_conv = CausalConv(value_width, config.conv_width, cp)
        self.o_norm = GatedHeadNorm(config.gdn_value_dim, config.gdn_norm_eps)
        self.key_dim, self.value_dim = config.gdn_key_dim, config.gdn_value_dim
        self.backend_on, self.tp, self.cp = config.backend_on, tp, cp

    def forward(self, x_BTD: Tensor, gate: Gate, documents: Documents | None) -> Tensor:
        x_BTD = gather_tokens(x_BTD, self.tp)
        q_BTC, k_BTC, v_BTC, a_BTN, b_BTN, gate_BTC = self._project(x_BTD)
        backend = self.backend_on(x_BTD.device.type)
        q_BTNK = self.q_conv.normalised(q_BTC, documents, backend, head_dim=self.key_dim, scale=self.key_dim**-0.5)
        k_BTNK = self.k_conv.normalised(k_BTC, documents, backend, head_dim=self.key_dim, scale=1.0)
        v_BTNV = _split_heads(self.v_conv(v_BTC, documents, backend), self.value_dim)
        gates = gates_triton.decay_and_beta if backend == "triton" else decay_and_beta
        log_decay_BTN, beta_BTN = gates(a_BTN, b_BTN, *(own_heads(local(parameter), self.cp) for parameter in gate))
        out_BTNV = gated_delta_rule(
            q=q_BTNK, k=k_BTNK, v=v_BTNV, log_decay=log_decay_BTN, beta=beta_BTN, documents=documents, backend=backend
        )
        gated_BTNV = self.o_norm(heads_to_tokens(out_BTNV, self.cp), _split_heads(gate_BTC, self.value_dim), backend)
        return scatter_tokens(self.o_proj(gated_BTNV.flatten(2)), self.tp)

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, a and b before the convolutions, all tokens of this rank's heads, in one exchange; and the gate of its own tokens."""
        num_heads = self.a_proj.out_features if self.tp is None else self.a_proj.out_features // self.tp.size()
        # a and b as one product, its width a multiple of 8: as two of a few heads each they take four times as long.
        narrow = torch.cat([local(self.a_proj.weight), local(self.b_proj.weight)])
        weights = [local(projection.weight) for projection in (self.q_proj, self.k_proj, self.v_proj, self.g_proj)]
        q_BTC, k_BTC, v_BTC, gate_BTC, ab_BTN = project(x_BTD, *weights, F.pad(narrow, (0, 0, 0, -len(narrow) % 8)))
        parts = (q_BTC, k_BTC, v_BTC, ab_BTN[..., :num_heads], ab_BTN[..., num_heads : 2 * num_heads])
        if self.cp is None:
            return *parts, gate_BTC
        widths = (self.key_dim, self.key_dim, self.value_dim, 1, 1)
        of_heads = [_split_heads(part, width) for part, width in zip(parts, widths, strict=True)]
        exchanged = tokens_to_heads(torch.cat(of_heads, -1), self.cp)
        return *(part.flatten(2) for part in exchanged.split(widths, -1)), gate_BTC


class CausalConv(nn.Module):
    """Depthwise convolution over the last `width` tokens of a document, then SiLU. As shifted multiplies: faster than conv1d on a CPU."""

    def __init__(self, channels: int, width: int, cp: DeviceMesh | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.cp = cp

    def forward(self, x_BTC: Tensor, documents: Documents | None, backend: Backend) -> Tensor:
        weight_C1W = own_heads(local(self.weight), self.cp).to(x_BTC.dtype)
        if backend == "triton":
            return conv_triton.conv_silu(x_BTC, weight_C1W, documents.position_BT if documents is not None else None)
        weight_WC = weight_C1W.squeeze(1).T
        width, num_tokens = weight_WC.shape[0], x_BTC.shape[1]
        padded = F.pad(x_BTC, (0, 0, width - 1, 0))
        out_BTC = x_BTC * weight_WC[-1]
        for back in range(1, width):
            earlier_BTC = padded[:, width - 1 - back : width - 1 - back + num_tokens] * weight_WC[width - 1 - back]
            if documents is not None:
                earlier_BTC = earlier_BTC * (documents.position_BT >= back).unsqueeze(-1)
            out_BTC = out_BTC + earlier_BTC
        return F.silu(out_BTC)

    def normalised(self, x_BTC: Tensor, documents: Documents | None, backend: Backend, *, head_dim: int, scale: float) -> Tensor:
        """x_BTNK of heads whose norm is `scale`: `l2_normalise` after the convolution."""
        if backend != "triton":
            return l2_normalise(_split_heads(self(x_BTC, documents, backend), head_dim), scale=scale)
        weight_C1W = own_heads(local(self.weight), self.cp).to(x_BTC.dtype)
        position_BT = documents.position_BT if documents is not None else None
        return _split_heads(conv_triton.conv_silu_norm(x_BTC, weight_C1W, position_BT, head_dim=head_dim, scale=scale), head_dim)


class GateParameters(nn.Module):
    """Of one layer: of each head, the logarithm of A and the bias of dt."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))

    def forward(self) -> Gate:
        return self.A_log.clone(), self.dt_bias.clone()  # FSDP leaves a hook on what it returns: for a parameter, one more each time


class Gates(nn.Module):
    """The gate parameters of the GDN layers, by layer: apart from the blocks, so that they stay fp32 where the rest computes in bf16.

    No ModuleDict: torch 2.11's FSDP refuses containers.
    """

    def __init__(self, layers: Iterable[int], num_heads: int) -> None:
        super().__init__()
        for layer in layers:
            self.add_module(str(layer), GateParameters(num_heads))

    def forward(self) -> dict[int, Gate]:
        return {int(layer): gate() for layer, gate in self.named_children()}


class GatedHeadNorm(nn.Module):
    """RMSNorm over V with one weight for all heads, times SiLU(gate); in fp32."""

    def __init__(self, value_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(value_dim))
        self.eps = eps

    def forward(self, x_BTNV: Tensor, gate_BTNV: Tensor, backend: Backend) -> Tensor:
        weight_V = local_partial(self.weight).to(gate_BTNV.dtype)
        if backend == "triton":
            return head_norm_triton.gated_norm(x_BTNV, gate_BTNV, weight_V, eps=self.eps)
        wide = widen(x_BTNV)
        normed = wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt() * widen(weight_V)
        return (normed * F.silu(widen(gate_BTNV))).to(gate_BTNV.dtype)


def decay_and_beta(a_BTN: Tensor, b_BTN: Tensor, A_log_N: Tensor, dt_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    """log_decay_BTN = −exp(A_log)·softplus(a + dt_bias) and beta_BTN = 2·sigmoid(b), in fp32 or wider."""
    return -A_log_N.exp() * F.softplus(widen(a_BTN) + dt_bias_N), 2 * widen(b_BTN).sigmoid()


def l2_normalise(x_BTNK: Tensor, *, scale: float) -> Tensor:
    """x / sqrt(sum x² + 1e-6) · scale over each head's K, in fp32."""
    wide = widen(x_BTNK)
    return (wide * ((wide.square().sum(-1, keepdim=True) + 1e-6).rsqrt() * scale)).to(x_BTNK.dtype)


def _split_heads(x_BTD: Tensor, head_width: int) -> Tensor:
    return x_BTD.unflatten(-1, (-1, head_width))
