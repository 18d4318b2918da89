"""What a mixer is given beside the residual stream."""

from typing import NamedTuple

from torch import Tensor

from model.documents import Documents
from model.layers.gates import Gate

Rotary = tuple[Tensor, Tensor]
"""cos and sin, each (1 or B) × T × 1 × K/2."""


class Context(NamedTuple):
    """A named tuple, so that FSDP and torch.compile see the tensors in it."""

    gate: Gate
    """The layer's own gate parameters; empty where it has none."""
    rotary: Rotary | None
    """Rotary positions of the whole rows; None where the model has none."""
    documents: Documents | None
    """Documents of the whole rows; None where each row is one document."""
