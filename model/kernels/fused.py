"""Where the small layers and the loss are our own kernels, one pass over memory each, and where they are plain torch."""

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
