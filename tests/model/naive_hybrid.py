"""Olmo Hybrid once more, from its description alone: one token and one head at a time, in fp64. Shares no code with `model`."""

import math

import torch
from torch import Tensor

from model.config import ModelConfig


def naive_logits(weights: dict[str, Tensor], config: ModelConfig, tokens: list[int]) -> Tensor:
    """logits_TX of one row."""
    stream = [weights["embed.weight"][token] for token in tokens]
    for layer in range(config.num_layers):
        mine = (f"layers.{layer}.", f"gates.{layer}.")
        part = {name.split(".", 2)[2]: weight for name, weight in weights.items() if name.startswith(mine)}
        if layer % 4 == 3:
            mixed = _attention(part, config, stream)
            stream = [x + _rms(y, part["mixer_norm.weight"], 1e-6) for x, y in zip(stream, mixed, strict=True)]
            stream = [x + _rms(_swiglu(part, x), part["ffn_norm.weight"], 1e-6) for x in stream]
        else:
            mixed = _gdn(part, config, [_rms(x, part["mixer_norm.weight"], 1e-6) for x in stream])
            stream = [x + y for x, y in zip(stream, mixed, strict=True)]
            stream = [x + _swiglu(part, _rms(x, part["ffn_norm.weight"], 1e-6)) for x in stream]
    return torch.stack([weights["head.weight"] @ _rms(x, weights["norm.weight"], 1e-6) for x in stream])


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).sum() / len(x) + eps) * weight


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _swiglu(part: dict[str, Tensor], x: Tensor) -> Tensor:
    return part["ffn.down_proj.weight"] @ (_silu(part["ffn.gate_proj.weight"] @ x) * (part["ffn.up_proj.weight"] @ x))


def _attention(part: dict[str, Tensor], config: ModelConfig, xs: list[Tensor]) -> list[Tensor]:
    size = config.head_dim
    queries = [_rms(part["mixer.q_proj.weight"] @ x, part["mixer.q_norm.weight"], 1e-6) for x in xs]
    keys = [_rms(part["mixer.k_proj.weight"] @ x, part["mixer.k_norm.weight"], 1e-6) for x in xs]
    values = [part["mixer.v_proj.weight"] @ x for x in xs]
    outputs = []
    for t in range(len(xs)):
        heads = []
        for head in range(config.num_heads):
            one = slice(head * size, (head + 1) * size)
            q = _turn(queries[t][one], t, config.rope_theta)
            scores = torch.stack([q @ _turn(keys[s][one], s, config.rope_theta) / math.sqrt(size) for s in range(t + 1)])
            shares = torch.exp(scores) / torch.exp(scores).sum()
            heads.append(sum(shares[s] * values[s][one] for s in range(t + 1)))
        outputs.append(part["mixer.o_proj.weight"] @ torch.cat(heads))
    return outputs


def _turn(x: Tensor, position: int, theta: float) -> Tensor:
    """Channels i and i + half are the real and imaginary part of a number that turns by position / theta^(i / half)."""
    half = len(x) // 2
    turned = [
        torch.complex(x[i], x[i + half]) * torch.polar(x.new_ones(()), x.new_tensor(position / theta ** (i / half))) for i in range(half)
    ]
    return torch.stack([number.real for number in turned] + [number.imag for number in turned])


def _gdn(part: dict[str, Tensor], config: ModelConfig, xs: list[Tensor]) -> list[Tensor]:
    q_all, k_all, v_all = (_convolved(part, name, xs) for name in "qkv")
    states = [torch.zeros(config.gdn_key_dim, config.gdn_value_dim, dtype=torch.float64) for _ in range(config.value_heads)]
    outputs = []
    for t, x in enumerate(xs):
        a, b, gate = (part[f"mixer.{name}_proj.weight"] @ x for name in "abg")
        heads = []
        for head in range(config.value_heads):
            key_head = head * config.key_heads // config.value_heads
            key_part = slice(key_head * config.gdn_key_dim, (key_head + 1) * config.gdn_key_dim)
            value_part = slice(head * config.gdn_value_dim, (head + 1) * config.gdn_value_dim)
            q, k, v = q_all[t][key_part], k_all[t][key_part], v_all[t][value_part]
            q = q / torch.sqrt((q * q).sum() + 1e-6) / math.sqrt(config.gdn_key_dim)
            k = k / torch.sqrt((k * k).sum() + 1e-6)
            softplus = torch.log(1 + torch.exp(a[head] + part["dt_bias"][head]))
            decayed = torch.exp(-torch.exp(part["A_log"][head]) * softplus) * states[head]
            beta = 2 / (1 + torch.exp(-b[head]))
            states[head] = decayed + torch.outer(k, beta * (v - decayed.T @ k))
            heads.append(_rms(states[head].T @ q, part["mixer.o_norm.weight"], 1e-5) * _silu(gate[value_part]))
        outputs.append(part["mixer.o_proj.weight"] @ torch.cat(heads))
    return outputs


def _convolved(part: dict[str, Tensor], name: str, xs: list[Tensor]) -> list[Tensor]:
    projected = [part[f"mixer.{name}_proj.weight"] @ x for x in xs]
    taps = part[f"mixer.{name}_conv.weight"][:, 0]
    return [_silu(sum(taps[:, 3 - back] * projected[t - back] for back in range(4) if t >= back)) for t in range(len(xs))]
