"""Parameters that stay fp32 where the rest computes in bf16, apart from the blocks, so that a block compiles as one graph."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.declare import Parameters

Gate = tuple[Tensor, ...]
"""The gate parameters of one layer in their declared order, fp32 or wider, sharded as they are declared."""


class GateParameters(nn.Module):
    """The gate parameters of one layer."""

    def __init__(self, declared: Parameters) -> None:
        super().__init__()
        for name, parameter in declared.items():
            self.register_parameter(name, nn.Parameter(torch.empty(parameter.shape)))

    def forward(self) -> Gate:
        # Clones: FSDP leaves a hook on what is returned, for a parameter one more each time.
        return tuple(parameter.clone() for parameter in self.parameters())


class Gates(nn.Module):
    """The gate parameters of a model, by layer. No ModuleDict: torch 2.11's FSDP refuses containers."""

    def __init__(self, declared_by_layer: Mapping[int, Parameters]) -> None:
        super().__init__()
        for layer, declared in declared_by_layer.items():
            if declared:
                self.add_module(str(layer), GateParameters(declared))

    def forward(self) -> dict[int, Gate]:
        return {int(layer): gate() for layer, gate in self.named_children()}
