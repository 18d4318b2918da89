"""AdamW's step as one kernel per parameter, which reads and writes each number once.

Nothing differentiates it, so it is no operator of torch's. The kernel is in `triton`, which needs Triton and is imported at the first call.
"""

from typing import Any

import torch
from torch import Tensor


def takes_kernel(*tensors: Tensor) -> bool:
    """Whether the kernel updates such parameters and moments: on a GPU, all in fp32 and contiguous."""
    return all(x.is_cuda and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)


def update(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    *,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    **settings: Any,
) -> None:
    """One step, in place, none where `found_inf` is 1; the gradients stay as they are. `settings` are the definition's."""
    from model.kernels.adamw import triton as kernels  # Triton: absent on a CPU

    grads = [grad.contiguous() for grad in grads]
    kernels.update(parameters, grads, exp_avgs, exp_avg_sqs, steps, grad_scale=grad_scale, found_inf=found_inf, **settings)
