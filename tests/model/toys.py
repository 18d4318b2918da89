"""Declarations for parameters of torch's own modules, which declare nothing."""

from torch import nn

from model.declare import Cut, Initial, Kind, Parameter

KINDS = {1: Kind.VECTOR, 2: Kind.VOCABULARY, 3: Kind.CONVOLUTION}


def declared(module: nn.Module) -> dict[str, Parameter]:
    """What is two-dimensional in `layers` is a matrix; the kind of anything else follows from its number of dimensions."""
    return {
        name: Parameter(
            shape=tuple(parameter.shape),
            kind=Kind.MATRIX if name.startswith("layers.") and parameter.ndim == 2 else KINDS[parameter.ndim],
            cut=Cut.OUTPUT,
            initial=Initial.NORMAL,
        )
        for name, parameter in module.named_parameters()
    }
