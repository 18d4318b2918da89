"""AdamW's step in torch's own kernels: the definition of `operator`, and what a CPU runs."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw


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
    """One step, in place, after the gradients are scaled in place; none where `found_inf`, a number of fp32, is 1.

    `settings` are lr, beta1, beta2, eps and weight_decay.
    """
    if grad_scale is not None:
        torch._foreach_mul_(grads, grad_scale)
    adamw(parameters, grads, exp_avgs, exp_avg_sqs, [], steps, fused=True, found_inf=found_inf, amsgrad=False, maximize=False, **settings)
