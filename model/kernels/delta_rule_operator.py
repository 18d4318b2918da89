"""The Triton kernels of the delta rule as an operator, with its fake and its backward."""

from typing import Any

import torch
from torch import Tensor

from model.kernels.delta_rule_triton import delta_rule_backward, delta_rule_forward, empty_forward

Kept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""out_BTNV, and for the backward inverse, scores, gates, updates and states, as `empty_forward` describes them."""
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of q, k, v, log_decay and beta."""


@torch.library.custom_op("braid::delta_rule_triton", mutates_args=())
def delta_rule_triton(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, offsets_cpu_P: Tensor | None) -> Kept:
    with torch.cuda.device_of(q):
        out, _, *kept = delta_rule_forward(q, k, v, log_decay, beta, offsets_cpu_P, None, False)
    inverse, scores, gates, updates, states = kept
    return out, inverse, scores, gates, updates, states


@torch.library.custom_op("braid::delta_rule_triton_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    inverse: Tensor,
    scores: Tensor,
    gates: Tensor,
    updates: Tensor,
    states: Tensor,
    offsets_cpu_P: Tensor | None,
) -> Gradients:
    kept = (inverse, scores, gates, updates, states)
    with torch.cuda.device_of(q):
        grad_q, grad_k, grad_v, grad_log_decay, grad_beta, _ = delta_rule_backward(
            grad_out, None, q, k, log_decay, beta, *kept, offsets_cpu_P, False
        )
    return grad_q, grad_k, grad_v, grad_log_decay, grad_beta


@delta_rule_triton.register_fake
def _fake(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, offsets_cpu_P: Tensor | None) -> Kept:
    out, _, inverse, scores, gates, updates, states = empty_forward(q, v, offsets_cpu_P, False)
    return out, inverse, scores, gates, updates, states


@_backward.register_fake
def _backward_fake(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    inverse: Tensor,
    scores: Tensor,
    gates: Tensor,
    updates: Tensor,
    states: Tensor,
    offsets_cpu_P: Tensor | None,
) -> Gradients:
    contiguous = torch.contiguous_format
    grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=contiguous) for x in (q, k, updates))
    return grad_q, grad_k, grad_v, torch.empty_like(log_decay, memory_format=contiguous), torch.empty_like(beta, memory_format=contiguous)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Kept) -> None:
    q, k, _, log_decay, beta, offsets_cpu_P = inputs
    ctx.save_for_backward(q, k, log_decay, beta, *output[1:], offsets_cpu_P)
    ctx.set_materialize_grads(False)  # nothing flows back into what is kept


def _differentiate(ctx: Any, grad_out: Tensor, *_of_kept: None) -> tuple[Tensor | None, ...]:
    return *_backward(grad_out, *ctx.saved_tensors), None


delta_rule_triton.register_autograd(_differentiate, setup_context=_keep)
