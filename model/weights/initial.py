"""Initial weights: a function of a parameter's declaration, its name and the seed, so the layout can't change them."""

import hashlib
import math

import torch
from torch import Tensor, nn

from model.declare import Initial, Parameter, Parameters
from model.weights.source import copy_full

STD = 0.02
"""Standard deviation of the normal distribution, which is cut off at three of them."""


def initial_weight(name: str, parameter: Parameter, seed: int) -> Tensor:
    """The whole parameter, fp32 on the CPU (the source of each rule is the Olmo Hybrid recipe, arXiv 2604.03444)."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()) >> 1)
    return _DRAWN[parameter.initial](torch.empty(parameter.shape), generator)


@torch.no_grad()
def init_weights(model: nn.Module, declared: Parameters, seed: int) -> None:
    """Fills every parameter; a rank keeps its own shard of each full tensor, without communication."""
    for name, parameter in model.named_parameters():
        copy_full(parameter, initial_weight(name, declared[name], seed))


def _normal(empty: Tensor, generator: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(empty, std=STD, a=-3 * STD, b=3 * STD, generator=generator)


def _ones(empty: Tensor, generator: torch.Generator) -> Tensor:
    return empty.fill_(1)


def _log_decay_rate(empty: Tensor, generator: torch.Generator) -> Tensor:
    """The logarithm of A, uniform in (0, 16]: never that of 0."""
    return (16 * (1 - torch.rand(empty.shape, generator=generator))).log()


def _time_step_bias(empty: Tensor, generator: torch.Generator) -> Tensor:
    """What softplus makes a time step of that is log-uniform from 1e-3 to 1e-1."""
    dt = empty.uniform_(math.log(1e-3), math.log(1e-1), generator=generator).exp().clamp(min=1e-4)
    return dt + (-torch.expm1(-dt)).log()


_DRAWN = {
    Initial.NORMAL: _normal,
    Initial.ONES: _ones,
    Initial.LOG_DECAY_RATE: _log_decay_rate,
    Initial.TIME_STEP_BIAS: _time_step_bias,
}
