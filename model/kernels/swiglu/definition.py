"""silu(gate) · up in plain torch: the definition of `operator`, and what a CPU runs."""

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up of two tensors of one shape and dtype, in that dtype."""
    return F.silu(gate) * up
