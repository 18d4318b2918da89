# mypy: allow-untyped-defs
"""The Triton kernel of AdamW: parameter and moments are read and written once, the gradient is read once. The host waits for nothing.

What a number costs is its 28 bytes, so square root and division are the exact ones. The bias corrections are made in fp64 for all
parameters at once, into one small tensor that the kernel reads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, NUM_WARPS = 1024, 4
"""Elements and warps of a program: two loads of 16 bytes per thread and tensor."""


def update(
    parameters: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    *,
    grad_scale: Tensor | None,
    found_inf: Tensor | None = None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One step, in place, of contiguous tensors in fp32 on one device; `steps` are those before it. The gradients stay as they are.

    Where `found_inf` is 1 nothing is written: numbers that are not finite times 0 would not be 0.
    """
    torch._foreach_add_(steps, 1)
    if found_inf is not None:
        torch._foreach_sub_(steps, [found_inf] * len(steps))
    corrections_P2 = bias_corrections(torch.stack(steps), beta1, beta2)
    settings = (lr, lr * weight_decay, 1 - beta1, 1 - beta2, eps)
    with torch.cuda.device_of(corrections_P2):
        for index, tensors in enumerate(zip(parameters, grads, exp_avgs, exp_avg_sqs, strict=True)):
            size = tensors[0].numel()
            if size:  # a rank may hold nothing of a parameter
                grid = (triton.cdiv(size, BLOCK),)
                adamw_kernel[grid](*tensors, grad_scale, found_inf, corrections_P2, index, size, *settings, BLOCK, num_warps=NUM_WARPS)


def bias_corrections(step_P: Tensor, beta1: float, beta2: float) -> Tensor:
    """1 / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ) of each parameter, P × 2 in fp32. The host waits for nothing."""
    remaining1_P, remaining2_P = (torch.pow(beta, step_P.double()) for beta in (beta1, beta2))
    return torch.stack(((1 - remaining1_P).reciprocal(), (1 - remaining2_P).rsqrt()), dim=1).float()


@triton.jit(do_not_specialize=["index"])
def adamw_kernel(
    parameter_ptr,
    grad_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    grad_scale_ptr,
    found_inf_ptr,
    correction_ptr,
    index,
    size,
    lr,
    decay,
    weight1,
    weight2,
    eps,
    BLOCK: tl.constexpr,
):
    """p ← p − decay·p − lr · m̂ / (√v̂ + eps), with m ← m − m·weight1 + g·weight1 and v ← v − v·weight2 + g²·weight2.

    Subtracting m·weight1 in one rounding forgets no more than is learnt: β₁ and weight1, each rounded to fp32, do not add up to 1.
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if found_inf_ptr is not None:
        size = tl.where(tl.load(found_inf_ptr) == 0.0, size, 0)
    inside = offset < size
    grad = tl.load(grad_ptr + offset, mask=inside)
    exp_avg = tl.load(exp_avg_ptr + offset, mask=inside)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + offset, mask=inside)
    parameter = tl.load(parameter_ptr + offset, mask=inside)
    if grad_scale_ptr is not None:
        grad *= tl.load(grad_scale_ptr)
    correction = tl.load(correction_ptr + 2 * index)
    root_correction = tl.load(correction_ptr + 2 * index + 1)

    exp_avg = exp_avg - exp_avg * weight1 + grad * weight1
    exp_avg_sq = exp_avg_sq - exp_avg_sq * weight2 + grad * grad * weight2
    direction = tl.div_rn(exp_avg * correction, tl.sqrt_rn(exp_avg_sq) * root_correction + eps)
    tl.store(exp_avg_ptr + offset, exp_avg, mask=inside)
    tl.store(exp_avg_sq_ptr + offset, exp_avg_sq, mask=inside)
    tl.store(parameter_ptr + offset, parameter - (decay * parameter + lr * direction), mask=inside)
