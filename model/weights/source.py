"""How weights move between formats: every format is a named list of tensors that are read one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a source knows about a tensor before it is read."""

    shape: tuple[int, ...]
    """The full shape, whatever layout it was written under."""
    dtype: torch.dtype
    """What `read` will give, whatever dtype the module has."""


class WeightSource(Protocol):
    """A model's weights, wherever they lie. Its users hold few tensors at a time, so that no host needs memory for the whole model."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor that can be read, by our name (`model.parameters.parameter_shapes`)."""

    def read(self, name: str) -> Tensor:
        """The full tensor on the CPU, of the shape and dtype that `tensors` has for it; its memory is free once the caller drops it."""


class WeightsMismatch(ValueError):
    """Weights of another model than the one they are meant for; one line that names the tensor."""


def check_tensors(found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises WeightsMismatch, naming the tensor, when names or shapes differ."""
    for name in expected:
        if name not in found:
            raise WeightsMismatch(f"{name}: missing in these weights; they belong to another model configuration")
    for name, info in found.items():
        if name not in expected:
            raise WeightsMismatch(f"{name}: the model has no such tensor; these weights belong to another model configuration")
        if info.shape != tuple(expected[name]):
            raise WeightsMismatch(
                f"{name}: shape {list(info.shape)}, but the model's is {list(expected[name])}; check the model configuration"
            )


@torch.no_grad()
def load_weights(module: nn.Module, source: WeightSource) -> None:
    """Copies every parameter from `source`, cast to the parameter's dtype. A rank keeps its own shard of each, without communication.

    Raises WeightsMismatch, before anything is changed, when names or shapes differ.
    """
    parameters = dict(module.named_parameters())
    check_tensors(source.tensors, {name: parameter.shape for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        copy_full(parameter, source.read(name))


@torch.no_grad()
def copy_full(parameter: Tensor, full: Tensor) -> None:
    """Fills `parameter`, or this rank's shard of it, from the full tensor, which every rank has; casts it to the parameter's dtype."""
    if isinstance(parameter, DTensor):
        placed = full.to(device=parameter.device, dtype=parameter.dtype)
        shard = distribute_tensor(placed, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(shard.to_local())
    else:
        parameter.copy_(full)
