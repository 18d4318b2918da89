"""Initial weights: a function of a parameter's name, its full shape and the seed, so that they are the same under every layout."""

import hashlib
import math

import torch
from torch import Tensor, nn

from model.weights.source import copy_full

STD = 0.02
"""The standard deviation of the normal distribution that weights are drawn from, before it is cut at three of them."""


def initial_weight(name: str, shape: torch.Size, seed: int) -> Tensor:
    """The full parameter in fp32 on the CPU, drawn as the Olmo Hybrid recipe says (arXiv 2604.03444)."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) >> 1)
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith("A_log"):
        return (16 * (1 - torch.rand(shape, generator=generator))).log()  # A in (0, 16]: never log 0
    if name.endswith("dt_bias"):
        low, high = math.log(1e-3), math.log(1e-1)
        dt = torch.empty(shape).uniform_(low, high, generator=generator).exp().clamp(min=1e-4)
        return dt + (-torch.expm1(-dt)).log()  # the inverse of softplus
    return nn.init.trunc_normal_(torch.empty(shape), std=STD, a=-3 * STD, b=3 * STD, generator=generator)


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Fills every parameter of `model`. A rank draws each full tensor and keeps its own shard, without communication."""
    for name, parameter in model.named_parameters():
        copy_full(parameter, initial_weight(name, parameter.shape, seed))
