"""The Triton kernels of the delta rule as an operator, with its fake and its backward."""

from typing import Any

import torch
from torch import Tensor

from model.kernels.delta_rule.launch import Backward, Forward, delta_rule_backward, delta_rule_forward, empty_forward
from model.kernels.operators import contiguous_like


@torch.library.custom_op("braid::delta_rule_triton", mutates_args=())
def delta_rule_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    offsets_cpu_P: Tensor | None,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> Forward:
    """`delta_rule_forward`. Differentiable in all but the offsets, through the output and the final state."""
    with torch.cuda.device_of(q):
        return delta_rule_forward(q, k, v, log_decay, beta, offsets_cpu_P, initial_state, output_final_state)


@torch.library.custom_op("braid::delta_rule_triton_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inverse: Tensor,
    scores: Tensor,
    gates: Tensor,
    updates: Tensor,
    states: Tensor,
    offsets_cpu_P: Tensor | None,
    has_initial_state: bool,
) -> Backward:
    kept = (inverse, scores, gates, updates, states)
    with torch.cuda.device_of(q):
        return delta_rule_backward(grad_out, grad_final_state, q, k, v, *kept, offsets_cpu_P, has_initial_state)


@delta_rule_triton.register_fake
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    offsets_cpu_P: Tensor | None,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> Forward:
    return empty_forward(q, v.contiguous(), offsets_cpu_P, output_final_state)


@_backward.register_fake
def _backward_fake(
    grad_out: Tensor,
    grad_final_state: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inverse: Tensor,
    scores: Tensor,
    gates: Tensor,
    updates: Tensor,
    states: Tensor,
    offsets_cpu_P: Tensor | None,
    has_initial_state: bool,
) -> Backward:
    num_documents = q.shape[0] if offsets_cpu_P is None else offsets_cpu_P.shape[0] - 1
    num_heads, value_dim = v.shape[2:]
    state = (num_documents if has_initial_state else 0, num_heads, q.shape[-1], value_dim)
    grad_log_decay, grad_beta = (v.new_empty(v.shape[:3], dtype=torch.float32) for _ in range(2))
    return contiguous_like(q), contiguous_like(k), contiguous_like(v), grad_log_decay, grad_beta, v.new_empty(state, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Forward) -> None:
    q, k, v, _log_decay, _beta, offsets_cpu_P, initial_state, ctx.has_final_state = inputs
    ctx.has_initial_state = initial_state is not None
    ctx.save_for_backward(q, k, v, *output[2:], offsets_cpu_P)
    ctx.set_materialize_grads(False)  # nothing flows back into what is kept, and not always into both of the others


def _differentiate(
    ctx: Any, grad_out: Tensor | None, grad_final_state: Tensor | None, *_of_kept: Tensor | None
) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: checkpointing refuses to compute them a second time
    v = saved[2]
    grad_out = torch.zeros_like(v) if grad_out is None else grad_out
    grad_final_state = grad_final_state if ctx.has_final_state else None
    *gradients, grad_initial_state = _backward(grad_out, grad_final_state, *saved, ctx.has_initial_state)
    return *gradients, None, grad_initial_state if ctx.has_initial_state else None, None


delta_rule_triton.register_autograd(_differentiate, setup_context=_keep)
