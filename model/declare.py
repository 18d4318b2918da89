"""What a parameter is. Whoever owns one says so here, once: its shape, its kind, how tensor parallelism cuts it, what it begins as. Pure.

Tensor parallelism, Muon, initial weights and predicted memory all read this; `build.require_declared` refuses a model with any other
parameter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod

Shape = tuple[int, ...]


class Kind(Enum):
    """What an optimizer needs to know."""

    MATRIX = "matrix"
    """A projection between channels: Muon orthogonalises its updates."""
    VOCABULARY = "vocabulary"
    """A row for each token: the embedding and the output head."""
    CONVOLUTION = "convolution"
    """A short filter for each channel."""
    VECTOR = "vector"
    """A number for each channel or head."""


class Cut(Enum):
    """What tensor parallelism leaves on a rank."""

    OUTPUT = 0
    """A share of dimension 0: output channels, whole heads or rows of the vocabulary."""
    INPUT = 1
    """A share of dimension 1: input channels. The ranks' products are summed."""
    NOTHING = None
    """All of it, which each rank applies to its own tokens or heads: the ranks' gradients are summed."""


class Initial(Enum):
    """How a parameter is drawn; `weights.initial` has the rules."""

    NORMAL = "normal"
    ONES = "ones"
    LOG_DECAY_RATE = "log_decay_rate"
    TIME_STEP_BIAS = "time_step_bias"


DIMENSIONS = {Kind.MATRIX: 2, Kind.VOCABULARY: 2, Kind.CONVOLUTION: 3, Kind.VECTOR: 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter's declaration. Nothing has a default: what is forgotten here would train wrongly, with exact losses."""

    shape: Shape
    """The shape of the whole parameter, whatever the layout."""
    kind: Kind
    cut: Cut
    initial: Initial

    def __post_init__(self) -> None:
        what = f"a {self.kind.value} of shape {list(self.shape)}"
        if len(self.shape) != DIMENSIONS[self.kind]:
            raise ValueError(f"{what}: a {self.kind.value} has {DIMENSIONS[self.kind]} dimensions; name another kind")
        if self.cut.value is not None and self.cut.value >= len(self.shape):
            raise ValueError(f"{what}: has no dimension for {self.cut}; use Cut.OUTPUT or Cut.NOTHING")
        if self.kind is Kind.VOCABULARY and self.cut is not Cut.OUTPUT:
            raise ValueError(f"{self.cut} for rows of the vocabulary: embedding and loss share them out over tp; use Cut.OUTPUT")

    @property
    def size(self) -> int:
        """Elements of the whole."""
        return prod(self.shape)

    def shape_on(self, tp: int) -> Shape:
        """The shape on the fullest of `tp` ranks."""
        return tuple(-(-size // tp) if dim == self.cut.value else size for dim, size in enumerate(self.shape))


Parameters = Mapping[str, Parameter]
"""Declarations by name, in the order of the module that owns them."""


def projection(out_width: int, in_width: int, cut: Cut) -> Parameter:
    """A bias-free linear map, stored as out × in."""
    return Parameter(shape=(out_width, in_width), kind=Kind.MATRIX, cut=cut, initial=Initial.NORMAL)


def vocabulary_rows(vocab_size: int, width: int) -> Parameter:
    return Parameter(shape=(vocab_size, width), kind=Kind.VOCABULARY, cut=Cut.OUTPUT, initial=Initial.NORMAL)


def norm_weight(width: int, cut: Cut) -> Parameter:
    return Parameter(shape=(width,), kind=Kind.VECTOR, cut=cut, initial=Initial.ONES)


def prefixed(prefix: str, parameters: Parameters) -> dict[str, Parameter]:
    """The same, named as parts of a module `prefix`."""
    return {f"{prefix}.{name}": parameter for name, parameter in parameters.items()}
