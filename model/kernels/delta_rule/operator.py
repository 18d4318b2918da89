"""The gated delta rule's front door, and its backends as operators, which torch.compile and checkpointing see whole."""

from typing import Any

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.delta_rule.chunked import forget_at_starts, gated_delta_rule_chunked
from model.kernels.delta_rule.fla import Gradients, delta_rule_fla
from model.kernels.delta_rule.launch import Backward, Forward, delta_rule_backward, delta_rule_forward, empty_forward
from model.kernels.delta_rule.sizes import Backend
from model.kernels.operators import contiguous_like


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


@torch.library.custom_op("braid::delta_rule_torch", mutates_args=())
def delta_rule_torch(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """out_BTMV by `gated_delta_rule_chunked`, in log_decay's dtype."""
    return _copy(_chunked(q, k, v, log_decay, beta))


@torch.library.custom_op("braid::delta_rule_torch_backward", mutates_args=())
def _torch_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Gradients:
    pull_back = torch.func.vjp(_chunked, q, k, v, log_decay, beta)[1]  # torch.autograd records nothing inside an operator
    grad_q, grad_k, grad_v, grad_log_decay, grad_beta = pull_back(grad_out)
    return _copy(grad_q), _copy(grad_k), _copy(grad_v), _copy(grad_log_decay), _copy(grad_beta)


def _copy(x: Tensor) -> Tensor:
    """A contiguous tensor that shares memory with nothing: what an operator may return."""
    return x.clone(memory_format=torch.contiguous_format)


@delta_rule_torch.register_fake
def _torch_fake(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    return contiguous_like(v)


@_torch_backward.register_fake
def _torch_backward_fake(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Gradients:
    return contiguous_like(q), contiguous_like(k), contiguous_like(v), contiguous_like(log_decay), contiguous_like(beta)


def _keep_for_torch(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_torch(ctx: Any, grad_out: Tensor) -> Gradients:
    return _torch_backward(grad_out, *ctx.saved_tensors)


delta_rule_torch.register_autograd(_differentiate_torch, setup_context=_keep_for_torch)


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

FORWARD_OPERATORS = frozenset(
    {torch.ops.braid.delta_rule_torch.default, torch.ops.braid.delta_rule_fla.default, torch.ops.braid.delta_rule_triton.default}
)
"""The operators whose outputs selective checkpointing keeps, rather than run them again."""
