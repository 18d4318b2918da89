"""The gated delta rule's front door, and its backends as operators that torch.compile and checkpointing see whole.

Each operator has a fake, which knows its outputs' shapes, and a backward operator.
"""

from typing import Any

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.delta_rule.chunked import forget_at_starts, gated_delta_rule_chunked
from model.kernels.delta_rule.operator import delta_rule_triton
from model.kernels.delta_rule.sizes import CHUNK
from model.kernels.operators import contiguous_like
from model.mixers.gdn.config import Backend

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of q, k, v, log_decay and beta."""


def gated_delta_rule(
    *, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, documents: Documents | None, backend: Backend
) -> Tensor:
    """out_BTNV in v's dtype, as `gated_delta_rule_reference` defines it, from q_BTNK, k_BTNK, v_BTNV, log_decay_BTN and beta_BTN.

    log_decay and beta are fp32 or wider: the torch backend computes in their dtype, fla's in q's with sums and state in fp32.
    """
    if backend == "fla":
        offsets_P, offsets_cpu_P = (documents.offsets_P, documents.offsets_cpu_P) if documents is not None else (None, None)
        return _fla(q, k, v, log_decay, beta, offsets_P, offsets_cpu_P)[0]
    if backend == "triton":
        return delta_rule_triton(q, k, v, log_decay, beta, documents.offsets_cpu_P if documents is not None else None, None, False)[0]
    # The operator's backward computes the forward again, half as much work more: it is for torch.compile alone.
    rule = _torch if torch.compiler.is_compiling() else _chunked
    return rule(q, k, v, forget_at_starts(log_decay, documents), beta)


def gated_delta_rule_with_states(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    documents: Documents | None,
    initial_state_DNKV: Tensor | None,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    """out_BTNV of `gated_delta_rule`, and final_state_DNKV, fp32: of each document D, or of each row where there are no documents.

    They start from the initial states, fp32, or from zero: a row that is cut in two, its state handed on, gives what it does as one.
    Both states have gradients. ValueError for a backend that has no states, and for initial states of another shape, dtype or device.
    """
    if backend != "triton":
        raise ValueError(f"gdn_backend={backend} neither takes nor gives states of the delta rule; take triton, on a GPU")
    offsets_cpu_P = documents.offsets_cpu_P if documents is not None else None
    num_documents = q.shape[0] if offsets_cpu_P is None else offsets_cpu_P.shape[0] - 1
    _check_state(initial_state_DNKV, (num_documents, v.shape[2], q.shape[3], v.shape[3]), v.device)
    out_BTNV, final_state_DNKV, *_ = delta_rule_triton(q, k, v, log_decay, beta, offsets_cpu_P, initial_state_DNKV, True)
    return out_BTNV, final_state_DNKV


def _check_state(state: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
    if state is not None and (state.shape, state.dtype, state.device) != (shape, torch.float32, device):
        found = f"{list(state.shape)} in {state.dtype} on {state.device}"
        raise ValueError(f"initial state {found}: give {list(shape)} (documents or rows, value heads, K, V) in float32 on {device}")


def _chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    wide_q, wide_k, wide_v = (x.to(log_decay.dtype) for x in (q, k, v))
    return gated_delta_rule_chunked(q=wide_q, k=wide_k, v=wide_v, log_decay=log_decay, beta=beta).to(v.dtype)


@torch.library.custom_op("braid::delta_rule_torch", mutates_args=())
def _torch(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    return _copy(_chunked(q, k, v, log_decay, beta))


@torch.library.custom_op("braid::delta_rule_torch_backward", mutates_args=())
def _torch_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Gradients:
    pull_back = torch.func.vjp(_chunked, q, k, v, log_decay, beta)[1]  # torch.autograd records nothing inside an operator
    grad_q, grad_k, grad_v, grad_log_decay, grad_beta = pull_back(grad_out)
    return _copy(grad_q), _copy(grad_k), _copy(grad_v), _copy(grad_log_decay), _copy(grad_beta)


@torch.library.custom_op("braid::delta_rule_fla", mutates_args=())
def _fla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, offsets_P: Tensor | None, offsets_cpu_P: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """out_BTNV; for the backward also the decay's sums within chunks (fp32, BTN) and the chunks' inverses (k's dtype, BTNC)."""
    from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_fwd  # Triton: slow to import, and absent on a CPU

    with torch.cuda.device_of(q):
        # fla's own flags for gates, norms and scale change the numbers: all that is done before.
        decay_sum, out, inverse, *_ = chunk_gated_delta_rule_fwd(
            q=_packed(q, offsets_P),
            k=_packed(k, offsets_P),
            v=_packed(v, offsets_P),
            g=_packed(log_decay, offsets_P),
            beta=_packed(beta, offsets_P),
            scale=1.0,
            initial_state=None,
            output_final_state=False,
            cu_seqlens=offsets_P,
            chunk_indices=_chunk_indices(offsets_P, offsets_cpu_P),
            chunk_size=CHUNK,
        )
    return out.to(v.dtype).view(v.shape), decay_sum.view(log_decay.shape), inverse.view(*log_decay.shape, CHUNK)


@torch.library.custom_op("braid::delta_rule_fla_backward", mutates_args=())
def _fla_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay_sum: Tensor,
    inverse: Tensor,
    offsets_P: Tensor | None,
    offsets_cpu_P: Tensor | None,
) -> Gradients:
    from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_bwd

    with torch.cuda.device_of(q):
        grad_q, grad_k, grad_v, grad_beta, grad_log_decay, *_ = chunk_gated_delta_rule_bwd(
            q=_packed(q, offsets_P),
            k=_packed(k, offsets_P),
            v=_packed(v, offsets_P),
            g=_packed(decay_sum, offsets_P),
            beta=_packed(beta, offsets_P),
            A=_packed(inverse, offsets_P),
            scale=1.0,
            initial_state=None,
            do=_packed(grad_out, offsets_P),
            dht=None,
            cu_seqlens=offsets_P,
            chunk_indices=_chunk_indices(offsets_P, offsets_cpu_P),
            chunk_size=CHUNK,
        )
    return grad_q.view(q.shape), grad_k.view(k.shape), grad_v.view(v.shape), grad_log_decay.view(beta.shape), grad_beta.view(beta.shape)


def _packed(x_BT: Tensor, offsets_P: Tensor | None) -> Tensor:
    """As fla reads it: contiguous, and rows with documents as one long row."""
    x_BT = x_BT.contiguous()
    return x_BT if offsets_P is None else x_BT.flatten(0, 1).unsqueeze(0)


def _chunk_indices(offsets_P: Tensor | None, offsets_cpu_P: Tensor | None) -> Tensor | None:
    """fla's plan of the documents' chunks: (document, chunk in it). Planned on the CPU and copied without waiting for the GPU."""
    if offsets_P is None:
        return None
    from fla.ops.utils.index import prepare_chunk_indices

    return prepare_chunk_indices(offsets_cpu_P, CHUNK).to(offsets_P.device, non_blocking=True)


def _copy(x: Tensor) -> Tensor:
    """A contiguous tensor that shares memory with nothing: what an operator may return."""
    return x.clone(memory_format=torch.contiguous_format)


@_torch.register_fake
def _torch_fake(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    return contiguous_like(v)


@_torch_backward.register_fake
def _torch_backward_fake(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Gradients:
    return contiguous_like(q), contiguous_like(k), contiguous_like(v), contiguous_like(log_decay), contiguous_like(beta)


@_fla.register_fake
def _fla_fake(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, offsets_P: Tensor | None, offsets_cpu_P: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return contiguous_like(v), contiguous_like(log_decay).float(), k.new_empty(*log_decay.shape, CHUNK)


@_fla_backward.register_fake
def _fla_backward_fake(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay_sum: Tensor,
    inverse: Tensor,
    offsets_P: Tensor | None,
    offsets_cpu_P: Tensor | None,
) -> Gradients:
    return contiguous_like(q), contiguous_like(k), contiguous_like(v), contiguous_like(decay_sum), contiguous_like(beta)


def _keep_for_torch(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_torch(ctx: Any, grad_out: Tensor) -> Gradients:
    return _torch_backward(grad_out, *ctx.saved_tensors)


def _keep_for_fla(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, _, beta, offsets_P, offsets_cpu_P = inputs
    _, decay_sum, inverse = output
    ctx.save_for_backward(q, k, v, beta, decay_sum, inverse, offsets_P, offsets_cpu_P)
    ctx.set_materialize_grads(False)  # nothing flows back into the sums and inverses


def _differentiate_fla(ctx: Any, grad_out: Tensor, _grad_decay_sum: None, _grad_inverse: None) -> tuple[Tensor | None, ...]:
    return *_fla_backward(grad_out, *ctx.saved_tensors), None, None


_torch.register_autograd(_differentiate_torch, setup_context=_keep_for_torch)
_fla.register_autograd(_differentiate_fla, setup_context=_keep_for_fla)

FORWARD_OPERATORS = frozenset(
    {torch.ops.braid.delta_rule_torch.default, torch.ops.braid.delta_rule_fla.default, torch.ops.braid.delta_rule_triton.default}
)
"""What selective checkpointing keeps the outputs of, rather than run it again."""
