"""The optimizer's kernel beside its definition."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model.kernel_check import CheckTerms, KernelCheck
from model.optim import adamw

SIZE = 50016
"""More than whole blocks, and a multiple of 16, as matrices are."""


def adamw_checks(terms: CheckTerms) -> Iterator[KernelCheck]:
    """AdamW's update, which in fp64 takes no kernel."""
    noise = terms.noise()
    inputs = {name: noise(SIZE, dtype=torch.float32) for name in ("parameter", "grad", "exp_avg", "exp_avg_sq")}
    inputs["exp_avg_sq"] = inputs["exp_avg_sq"].square()
    yield KernelCheck(name="adamw", compute=_adamw, exact=_adamw, inputs=inputs)


@torch.no_grad()
def _adamw(parameter: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor) -> tuple[Tensor, ...]:
    """The third step, with settings of which each shows."""
    parameter, grad, exp_avg, exp_avg_sq = (x.clone() for x in (parameter, grad, exp_avg, exp_avg_sq))
    step, grad_scale = (torch.full((), 2.0, device=grad.device) for _ in range(2))
    found_inf = torch.zeros((), device=grad.device)
    settings = {"lr": 0.5, "beta1": 0.9, "beta2": 0.8, "eps": 0.1, "weight_decay": 0.3}
    adamw.update([parameter], [grad], [exp_avg], [exp_avg_sq], [step], grad_scale=grad_scale, found_inf=found_inf, **settings)
    return parameter, exp_avg, exp_avg_sq
