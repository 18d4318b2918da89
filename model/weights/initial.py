"""Initial weights: a function of a parameter's declaration, its name and the seed, so that no layout and no device can change them.

Every number is drawn by itself, from its place in the whole parameter: a rank draws its own shard, on its own device, and nothing else.
"""

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from model.declare import Initial, Parameter, Parameters
from model.weights.counters import normal_at, uniform_at

STD = 0.02
"""Standard deviation of the normal distribution, which is cut off at three of them."""
CHUNK = {"cpu": 2**15, "cuda": 2**23}
"""Numbers that are drawn at once: what the caches hold, and what fills a GPU."""


def initial_weight(name: str, parameter: Parameter, seed: int) -> Tensor:
    """The whole parameter, fp32 on the CPU (the source of each rule is the Olmo Hybrid recipe, arXiv 2604.03444)."""
    weight = torch.empty(parameter.shape)
    _draw(weight, [torch.arange(size) for size in parameter.shape], name=name, declared=parameter, seed=seed)
    return weight


@torch.no_grad()
def init_weights(model: nn.Module, declared: Parameters, seed: int) -> None:
    """Fills every parameter, or this rank's shard of it, without communication."""
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()
        places = [_places_along(parameter, dim) for dim in range(parameter.ndim)]
        _draw(local, places, name=name, declared=declared[name], seed=seed)


def _places_along(parameter: Tensor, dim: int) -> Tensor:
    """Which places of a dimension this rank has."""
    shape = [1] * parameter.ndim
    shape[dim] = parameter.shape[dim]
    places = torch.arange(parameter.shape[dim], device=parameter.device).view(shape)
    if isinstance(parameter, DTensor):
        cuts = [one if getattr(one, "dim", None) == dim else Replicate() for one in parameter.placements]
        places = distribute_tensor(places, parameter.device_mesh, cuts, src_data_rank=None).to_local()
    return places.flatten()


def _draw(out: Tensor, places: list[Tensor], *, name: str, declared: Parameter, seed: int) -> None:
    """Fills `out`, of which `places` says for each dimension where in the whole parameter it lies."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())
    rule = _DRAWN[declared.initial]
    within = torch.zeros(1, dtype=torch.int64, device=out.device)
    for dim in range(1, out.ndim):
        within = (within[:, None] + places[dim] * math.prod(declared.shape[dim + 1 :])).flatten()
    num_rows = max(1, CHUNK[out.device.type] // max(1, len(within)))
    for rows, firsts in zip(out.split(num_rows), (places[0] * math.prod(declared.shape[1:])).split(num_rows), strict=True):
        rows.copy_(rule((firsts[:, None] + within).flatten(), key).view(rows.shape))


def _normal(index: Tensor, key: int) -> Tensor:
    return normal_at(index, key).mul_(STD)


def _ones(index: Tensor, key: int) -> Tensor:
    return torch.ones(len(index), device=index.device)


def _log_decay_rate(index: Tensor, key: int) -> Tensor:
    """The logarithm of A, uniform in (0, 16]: never that of 0."""
    return (16 * (1 - uniform_at(index.cpu(), key))).log()


def _time_step_bias(index: Tensor, key: int) -> Tensor:
    """What softplus makes a time step of that is log-uniform from 1e-3 to 1e-1."""
    low, high = math.log(1e-3), math.log(1e-1)
    dt = (low + (high - low) * uniform_at(index.cpu(), key)).exp().clamp(min=1e-4)
    return dt + (-torch.expm1(-dt)).log()


_DRAWN = {
    Initial.NORMAL: _normal,
    Initial.ONES: _ones,
    Initial.LOG_DECAY_RATE: _log_decay_rate,
    Initial.TIME_STEP_BIAS: _time_step_bias,
}
"""How numbers are drawn at their places. What needs a logarithm, a few numbers a head, is drawn on the CPU: GPUs round it otherwise."""
