"""A fake WeightSource: tensors in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.parameters import parameter_shapes
from model.weights.source import TensorInfo


@dataclass(frozen=True)
class MemoryWeights:
    held: dict[str, Tensor]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in self.held.items()}

    def read(self, name: str) -> Tensor:
        return self.held[name]


def random_weights(config: ModelConfig, dtype: torch.dtype = torch.float32) -> MemoryWeights:
    """Gates are fp32, as in every model that is trained."""
    generator = torch.Generator().manual_seed(1)
    held = {name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(config).items()}
    return MemoryWeights({name: tensor if name.startswith("gates.") else tensor.to(dtype) for name, tensor in held.items()})
