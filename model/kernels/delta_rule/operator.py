"""The gated delta rule's front door, and its backends as operators, which torch.compile and checkpointing see whole."""

from typing import Any

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.delta_rule.chunked import forget_at_starts, gated_delta_rule_chunked
from model.kernels.delta_rule.fla import Gradients, delta_rule_fla
from model.kernels.delta_rule.launch import Backward, Forward, delta_rule_backward, delta_rule_forward, empty_backward, empty_forward
from model.kernels.delta_rule.sizes import Backend
from model.kernels.operators import as_operator, contiguous_like, differentiate


def gated_delta_rule(
    *, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, documents: Documents | None, backend: Backend
) -> Tensor:
    """out_BTMV in v's dtype, as `definition.gated_delta_rule` has it, from q_BTNK, k_BTNK, v_BTMV, log_decay_BTM and beta_BTM.

    log_decay and beta are fp32 or wider: the torch backend computes in their dtype, the others in q's with sums and state in fp32.
    """
    if backend == "fla":
        offsets_P, offsets_cpu_P = (documents.offsets_P, documents.offsets_cpu_P) if documents is not None else (None, None)
        return delta_rule_fla(q, k, v, log_decay, beta, offsets_P, offsets_cpu_P)[0]
    if backend == "triton":
        return delta_rule_triton(q, k, v, log_decay, beta, documents.offsets_cpu_P if documents is not None else None, None, False)[0]
    # The operator's backward computes the forward again, half as much work more: it is for torch.compile alone.
    rule = delta_rule_torch if torch.compiler.is_compiling() else _chunked
    return rule(q, k, v, forget_at_starts(log_decay, documents), beta)


def _chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    wide_q, wide_k, wide_v = (x.to(log_decay.dtype) for x in (q, k, v))
    return gated_delta_rule_chunked(q=wide_q, k=wide_k, v=wide_v, log_decay=log_decay, beta=beta).to(v.dtype)


def _copy(x: Tensor) -> Tensor:
    """A contiguous tensor that shares memory with nothing: what an operator may return."""
    return x.clone(memory_format=torch.contiguous_format)


@as_operator("delta_rule_torch", empty=lambda q, k, v, *_: contiguous_like(v))
def delta_rule_torch(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """out_BTMV by `gated_delta_rule_chunked`, in log_decay's dtype."""
    return _copy(_chunked(q, k, v, log_decay, beta))


@as_operator("delta_rule_torch_backward", empty=lambda grad_out, *inputs: tuple(contiguous_like(x) for x in inputs))
def _torch_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Gradients:
    pull_back = torch.func.vjp(_chunked, q, k, v, log_decay, beta)[1]  # torch.autograd records nothing inside an operator
    grad_q, grad_k, grad_v, grad_log_decay, grad_beta = pull_back(grad_out)
    return _copy(grad_q), _copy(grad_k), _copy(grad_v), _copy(grad_log_decay), _copy(grad_beta)


differentiate(delta_rule_torch, _torch_backward)


def _empty(
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


@as_operator("delta_rule_triton", empty=_empty)
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


@as_operator("delta_rule_triton_backward", empty=empty_backward)
def _triton_backward(
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


def _keep(inputs: tuple[Any, ...], output: Forward) -> tuple[Any, ...]:
    q, k, v, _log_decay, _beta, offsets_cpu_P, initial_state, output_final_state = inputs
    return q, k, v, *output[2:], offsets_cpu_P, initial_state is not None, output_final_state


def _triton_gradients(grad_out: Tensor | None, grad_final_state: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
    """Nothing flows back into the five outputs that are kept, and not always into both of the others."""
    q, k, v, *kept, offsets_cpu_P, has_initial_state, has_final_state = rest[5:]
    grad_out = torch.zeros_like(v) if grad_out is None else grad_out
    grad_final_state = grad_final_state if has_final_state else None
    *gradients, grad_initial_state = _triton_backward(grad_out, grad_final_state, q, k, v, *kept, offsets_cpu_P, has_initial_state)
    return *gradients, None, grad_initial_state if has_initial_state else None


differentiate(delta_rule_triton, _triton_gradients, keep=_keep, materialize_grads=False)

FORWARD_OPERATORS = frozenset(
    {torch.ops.braid.delta_rule_torch.default, torch.ops.braid.delta_rule_fla.default, torch.ops.braid.delta_rule_triton.default}
)
"""The operators whose outputs selective checkpointing keeps, rather than run them again."""
