"""Gated DeltaNet with negative eigenvalues, as in Olmo Hybrid (arXiv 2412.06464, 2411.12537, 2604.03444)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.declare import Parameter
from model.documents import Documents
from model.kernels.conv import definition as conv_definition
from model.kernels.conv import operator as conv_operator
from model.kernels.delta_rule.operator import FORWARD_OPERATORS, gated_delta_rule
from model.kernels.delta_rule.sizes import Backend
from model.kernels.gated_norm import definition as gated_norm_definition
from model.kernels.gated_norm import operator as gated_norm_operator
from model.kernels.gates import definition as gates_definition
from model.kernels.gates import operator as gates_operator
from model.layers.linear import Linear, project_by
from model.mixers.context import Context
from model.mixers.gdn.config import GdnConfig
from model.mixers.gdn.costs import gdn_parameters
from model.parallel.collectives import gather_tokens, heads_to_tokens, local, own_heads, scatter_tokens, tokens_to_heads

KEPT_OPERATORS = FORWARD_OPERATORS | {torch.ops.aten.bmm.default}
"""The delta rule's operators; batched products are those inside it where plain torch computes it."""


class GatedDeltaNet(nn.Module):
    """x_BTD to out_BTD of this rank's tokens; inside, the ranks share the heads. M value heads share N key heads in groups of M / N."""

    def __init__(self, config: GdnConfig, *, tp: DeviceMesh | None, cp: DeviceMesh | None) -> None:
        super().__init__()
        declared = gdn_parameters(config)
        self.q_proj = Linear(declared["q_proj.weight"])
        self.k_proj = Linear(declared["k_proj.weight"])
        self.v_proj = Linear(declared["v_proj.weight"])
        self.a_proj = Linear(declared["a_proj.weight"])
        self.b_proj = Linear(declared["b_proj.weight"])
        self.g_proj = Linear(declared["g_proj.weight"])
        self.o_proj = Linear(declared["o_proj.weight"])
        self.q_conv = CausalConv(declared["q_conv.weight"], cp)
        self.k_conv = CausalConv(declared["k_conv.weight"], cp)
        self.v_conv = CausalConv(declared["v_conv.weight"], cp)
        self.o_norm = GatedHeadNorm(declared["o_norm.weight"], config.gdn_norm_eps)
        self.key_dim, self.value_dim, self.group = config.gdn_key_dim, config.gdn_value_dim, config.value_heads // config.key_heads
        self.backend_on, self.tp, self.cp = config.backend_on, tp, cp

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        documents, backend = context.documents, self.backend_on(x_BTD.device.type)
        q_BTC, k_BTC, v_BTC, a_BTM, b_BTM, gate_BTC = self._project(gather_tokens(x_BTD, self.tp))
        q_BTNK = self.q_conv.normalised(q_BTC, documents, backend, head_dim=self.key_dim, scale=self.key_dim**-0.5)
        k_BTNK = self.k_conv.normalised(k_BTC, documents, backend, head_dim=self.key_dim, scale=1.0)
        v_BTMV = _split_heads(self.v_conv(v_BTC, documents, backend), self.value_dim)
        assert v_BTMV.shape[2] == self.group * q_BTNK.shape[2], "a rank has the value heads of its own key heads"
        A_log_M, dt_bias_M = (own_heads(local(parameter), self.cp) for parameter in context.gate)
        log_decay_BTM, beta_BTM = decay_and_beta(a_BTM, b_BTM, A_log_M, dt_bias_M, backend)
        out_BTMV = gated_delta_rule(
            q=q_BTNK, k=k_BTNK, v=v_BTMV, log_decay=log_decay_BTM, beta=beta_BTM, documents=documents, backend=backend
        )
        gated_BTMV = self.o_norm(heads_to_tokens(out_BTMV, self.cp), _split_heads(gate_BTC, self.value_dim), backend)
        return scatter_tokens(self.o_proj(gated_BTMV.flatten(2)), self.tp)

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, a and b before the convolutions, all tokens of this rank's heads, in one exchange; and the gate of its own tokens."""
        # a and b as one product, its width a multiple of 8: as two of a few heads each they take four times as long.
        ab_weight = torch.cat([local(self.a_proj.weight), local(self.b_proj.weight)])
        num_heads = len(ab_weight) // 2
        separate = (self.q_proj, self.k_proj, self.v_proj, self.g_proj)
        weights = [*(local(each.weight) for each in separate), F.pad(ab_weight, (0, 0, 0, -len(ab_weight) % 8))]
        products = project_by(x_BTD, weights, [*(each.keep for each in separate), self.a_proj.keep])
        q_BTC, k_BTC, v_BTC, gate_BTC, ab_BTM = products
        parts = (q_BTC, k_BTC, v_BTC, ab_BTM[..., :num_heads], ab_BTM[..., num_heads : 2 * num_heads])
        return *(parts if self.cp is None else self._exchange(parts, self.cp)), gate_BTC

    def _exchange(self, parts: tuple[Tensor, ...], cp: DeviceMesh) -> tuple[Tensor, ...]:
        """Each key head travels with the value heads that share it."""
        widths = (self.key_dim, self.key_dim, self.group * self.value_dim, self.group, self.group)
        by_key_head = [_split_heads(part, width) for part, width in zip(parts, widths, strict=True)]
        exchanged = tokens_to_heads(torch.cat(by_key_head, -1), cp)
        return tuple(part.flatten(2) for part in exchanged.split(widths, -1))


class CausalConv(nn.Module):
    """Depthwise convolution over the last tokens of a document, then SiLU."""

    def __init__(self, declared: Parameter, cp: DeviceMesh | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(declared.shape))
        self.cp = cp

    def forward(self, x_BTC: Tensor, documents: Documents | None, backend: Backend) -> Tensor:
        conv = conv_operator if backend == "triton" else conv_definition
        return conv.conv_silu(x_BTC, self._own_weight(x_BTC), _positions(documents))

    def normalised(self, x_BTC: Tensor, documents: Documents | None, backend: Backend, *, head_dim: int, scale: float) -> Tensor:
        """x_BTNK after the convolution, each head scaled to the norm `scale`."""
        conv = conv_operator if backend == "triton" else conv_definition
        weight_C1W = self._own_weight(x_BTC)
        return _split_heads(conv.conv_silu_norm(x_BTC, weight_C1W, _positions(documents), head_dim=head_dim, scale=scale), head_dim)

    def _own_weight(self, x_BTC: Tensor) -> Tensor:
        return own_heads(local(self.weight), self.cp).to(x_BTC.dtype)


class GatedHeadNorm(nn.Module):
    """RMSNorm over V with one weight for all heads, times SiLU(gate); in fp32."""

    def __init__(self, declared: Parameter, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(declared.shape))
        self.eps = eps

    def forward(self, x_BTMV: Tensor, gate_BTMV: Tensor, backend: Backend) -> Tensor:
        norm = gated_norm_operator if backend == "triton" else gated_norm_definition
        return norm.gated_norm(x_BTMV, gate_BTMV, local(self.weight).to(gate_BTMV.dtype), eps=self.eps)


def decay_and_beta(a_BTM: Tensor, b_BTM: Tensor, A_log_M: Tensor, dt_bias_M: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    """log_decay_BTM = −exp(A_log)·softplus(a + dt_bias) and beta_BTM = 2·sigmoid(b), in fp32 or wider."""
    gates = gates_operator if backend == "triton" else gates_definition
    return gates.decay_and_beta(a_BTM, b_BTM, A_log_M, dt_bias_M)


def _positions(documents: Documents | None) -> Tensor | None:
    return None if documents is None else documents.position_BT


def _split_heads(x_BTD: Tensor, head_width: int) -> Tensor:
    return x_BTD.unflatten(-1, (-1, head_width))
