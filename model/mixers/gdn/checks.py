"""The kernels of a GDN layer beside their definitions."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from model.declare import Parameter, Parameters
from model.documents import Documents, build_documents
from model.kernel_check import CheckTerms, KernelCheck
from model.kernels.conv.definition import l2_normalise
from model.kernels.delta_rule.operator import gated_delta_rule
from model.kernels.delta_rule.sizes import Backend
from model.kernels.gates import definition as gates_definition
from model.mixers.gdn.config import GdnConfig
from model.mixers.gdn.costs import gdn_parameters
from model.mixers.gdn.layer import CausalConv, GatedHeadNorm, decay_and_beta


def gdn_checks(config: GdnConfig, terms: CheckTerms) -> Iterator[KernelCheck]:
    """Convolutions, gates, delta rule and gated norm, with the backend that the layer takes on this device."""
    key_heads, value_heads = config.key_heads // terms.num_head_ranks, config.value_heads // terms.num_head_ranks
    tokens, key_dim, value_dim = terms.num_tokens, config.gdn_key_dim, config.gdn_value_dim
    backend, declared, noise = config.backend_on(terms.device.type), gdn_parameters(config), terms.noise()
    about = f"gdn_backend {backend}, {value_heads} heads × ({key_dim}, {value_dim})"
    documents = _documents(terms) if terms.is_packed else None
    keys, values = (1, tokens, key_heads, key_dim), (1, tokens, value_heads, value_dim)

    def check(name: str, compute: partial[tuple[Tensor, ...]], inputs: dict[str, Tensor]) -> KernelCheck:
        return KernelCheck(name=name, compute=partial(compute, backend), exact=partial(compute, "torch"), inputs=inputs, about=about)

    for name, conv, channels, head_dim in (
        ("keys", "k_conv.weight", key_heads * key_dim, key_dim),
        ("values", "v_conv.weight", value_heads * value_dim, None),
    ):
        inputs = {"x": noise(1, tokens, channels), "weight": noise(channels, 1, config.conv_width)}
        yield check(f"convolution of {name}", partial(_convolution, declared[conv], documents, head_dim), inputs)
    inputs = {name: noise(1, tokens, value_heads) for name in ("a", "b")}
    inputs |= {name: noise(value_heads, dtype=torch.float32) for name in ("A_log", "dt_bias")}
    yield check("gates", partial(_gates), inputs)
    log_decay, beta = gates_definition.decay_and_beta(*inputs.values())
    inputs = {name: l2_normalise(noise(*keys), scale=1.0) for name in ("q", "k")}
    inputs |= {"v": noise(*values), "log_decay": log_decay, "beta": beta}
    yield check("delta rule", partial(_delta_rule, documents), inputs)
    inputs = {"x": noise(*values), "gate": noise(*values), "weight": noise(value_dim)}
    yield check("gated norm", partial(_gated_norm, declared), inputs)


def _documents(terms: CheckTerms) -> Documents:
    tokens = terms.num_tokens
    starts = torch.tensor([0, 1, tokens // 3, tokens // 2 + 3, tokens])
    return build_documents(starts, num_rows=1, num_tokens=tokens, device=terms.device)


def _convolution(
    declared: Parameter, documents: Documents | None, head_dim: int | None, backend: Backend, *, x: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    return (functional_call(_Convolution(declared, head_dim), {"conv.weight": weight}, (x, documents, backend)),)


class _Convolution(nn.Module):
    """Normalised where there is a `head_dim`, as for keys; as it is for values."""

    def __init__(self, declared: Parameter, head_dim: int | None) -> None:
        super().__init__()
        self.conv, self.head_dim = CausalConv(declared, None), head_dim

    def forward(self, x_BTC: Tensor, documents: Documents | None, backend: Backend) -> Tensor:
        if self.head_dim is None:
            return self.conv(x_BTC, documents, backend)
        return self.conv.normalised(x_BTC, documents, backend, head_dim=self.head_dim, scale=1.0)


def _gates(backend: Backend, *, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, ...]:
    return decay_and_beta(a, b, A_log, dt_bias, backend)


def _delta_rule(
    documents: Documents | None, backend: Backend, *, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor
) -> tuple[Tensor, ...]:
    return (gated_delta_rule(q=q, k=k, v=v, log_decay=log_decay, beta=beta, documents=documents, backend=backend),)


def _gated_norm(declared: Parameters, backend: Backend, *, x: Tensor, gate: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    norm = GatedHeadNorm(declared["o_norm.weight"], eps=1e-5)
    return (functional_call(norm, {"weight": weight}, (x, gate, backend)),)
