"""AdamW that clips as it steps: on a GPU one kernel per parameter, which scales the gradient as it reads it; elsewhere torch's update."""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw


class AdamW(Optimizer):
    """torch.optim.AdamW's update; without a GPU to the bit.

    Needs `state` filled before the first step (`optim.initial_state`): step, exp_avg and exp_avg_sq.
    """

    @torch.no_grad()
    def step(self, closure: None = None, *, grad_scale: Tensor | None = None) -> None:  # type: ignore[override]
        """`grad_scale`, one number on the device of the parameters, multiplies every gradient; `.grad` itself may be left unscaled.

        Parameters without a gradient stay as they are. Takes no closure.
        """
        for group in self.param_groups:
            self._adamw(group, grad_scale)

    def _adamw(self, group: dict[str, Any], grad_scale: Tensor | None) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        update(
            [local_of(parameter) for parameter in parameters],
            [local_of(parameter.grad) for parameter in parameters],
            [local_of(state["exp_avg"]) for state in states],
            [local_of(state["exp_avg_sq"]) for state in states],
            [state["step"] for state in states],
            grad_scale=grad_scale,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )


def update(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    *,
    grad_scale: Tensor | None,
    **settings: Any,
) -> None:
    """One step, in place. `settings` are lr, beta1, beta2, eps and weight_decay. Without the kernel, gradients are scaled in place too."""
    if not parameters:
        return
    if takes_kernel(*parameters, *exp_avgs, *exp_avg_sqs):
        from model.kernels.adamw import triton as triton_adamw  # Triton: absent on a CPU

        grads = [grad.contiguous() for grad in grads]
        triton_adamw.update(parameters, grads, exp_avgs, exp_avg_sqs, steps, grad_scale=grad_scale, **settings)
        return
    if grad_scale is not None:
        torch._foreach_mul_(grads, grad_scale)
    adamw(parameters, grads, exp_avgs, exp_avg_sqs, [], steps, fused=True, amsgrad=False, maximize=False, **settings)


def takes_kernel(*tensors: Tensor) -> bool:
    """On a GPU, in fp32."""
    return all(x.is_cuda and x.dtype == torch.float32 and x.is_contiguous() for x in tensors)


def local_of(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
