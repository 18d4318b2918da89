"""What the layers' kernels share: where they are taken rather than plain torch, and the tensors that they write to."""

import torch
from torch import Tensor


def takes_kernels(*tensors: Tensor) -> bool:
    """On a GPU, all in bf16 or all in fp32. What is being compiled is left to the compiler: it fuses a layer with its neighbours."""
    first = tensors[0]
    return (
        not torch.compiler.is_compiling()
        and first.dtype in (torch.bfloat16, torch.float32)
        and all(x.is_cuda and x.dtype == first.dtype for x in tensors)
    )


def contiguous_like(x: Tensor) -> Tensor:
    """Unfilled, of x's shape, dtype and device: what a kernel writes to, and what its operator's fake returns."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)
