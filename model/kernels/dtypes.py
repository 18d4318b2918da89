"""The precision that definitions compute in."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """x in fp32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
