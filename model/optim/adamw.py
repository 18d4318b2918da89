"""AdamW that clips as it steps: on a GPU one kernel per parameter, which scales the gradient as it reads it; elsewhere torch's update."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from model.kernels.adamw import definition, operator
from model.parallel.collectives import shard_of


class AdamW(Optimizer):
    """torch.optim.AdamW's update; without a GPU to the bit.

    Needs `state` filled before the first step (`optim.build.initial_state`): step, exp_avg and exp_avg_sq.
    """

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: None = None, *, grad_scale: Tensor | None = None, found_inf: Tensor | None = None
    ) -> None:
        """`grad_scale`, one number on the device of the parameters, multiplies every gradient; `.grad` itself may be left unscaled.
        Where `found_inf`, another one in fp32, is 1, nothing changes, whatever the gradients are; the host need not know.

        Parameters without a gradient stay as they are. Takes no closure.
        """
        for group in self.param_groups:
            self._adamw(group, grad_scale, found_inf)

    def _adamw(self, group: dict[str, Any], grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        update(
            [shard_of(parameter) for parameter in parameters],
            [shard_of(parameter.grad) for parameter in parameters],
            [shard_of(state["exp_avg"]) for state in states],
            [shard_of(state["exp_avg_sq"]) for state in states],
            [state["step"] for state in states],
            grad_scale=grad_scale,
            found_inf=found_inf,
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
    found_inf: Tensor | None = None,
    **settings: Any,
) -> None:
    """One step, in place, none where `found_inf` is 1. `settings` are lr, beta1, beta2, eps and weight_decay.

    Without the kernel, gradients are scaled in place too.
    """
    if not parameters:
        return
    takes_kernel = operator.takes_kernel(*parameters, *exp_avgs, *exp_avg_sqs)
    step = operator.update if takes_kernel else definition.update
    step(parameters, grads, exp_avgs, exp_avg_sqs, steps, grad_scale=grad_scale, found_inf=found_inf, **settings)
