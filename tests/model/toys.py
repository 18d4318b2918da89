"""Declarations for parameters of torch's own modules, which declare nothing."""

from torch import nn

from model.declare import Cut, Initial, Kind, Parameter


def declared(module: nn.Module) -> dict[str, Parameter]:
    """What is two-dimensional in `layers` is a matrix, everything else a vector."""
    return {
        name: Parameter(
            shape=tuple(parameter.shape),
            kind=Kind.MATRIX if name.startswith("layers.") and parameter.ndim == 2 else Kind.VECTOR,
            cut=Cut.NOTHING,
            initial=Initial.NORMAL,
        )
        for name, parameter in module.named_parameters()
    }


def filters(channels: int, width: int) -> Parameter:
    """A convolution's."""
    return Parameter(shape=(channels, 1, width), kind=Kind.CONVOLUTION, cut=Cut.OUTPUT, initial=Initial.NORMAL)
