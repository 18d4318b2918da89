"""flash-linear-attention's kernels of the gated delta rule as an operator, which torch.compile and checkpointing see whole."""

from typing import Any

import torch
from torch import Tensor

from model.kernels.delta_rule.sizes import GDN_CHUNK
from model.kernels.operators import as_operator, contiguous_like, differentiate

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Gradients of q, k, v, log_decay and beta."""


def _empty(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return contiguous_like(v), contiguous_like(log_decay).float(), k.new_empty(*log_decay.shape, GDN_CHUNK)


def _empty_gradients(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay_sum: Tensor, *_: Any) -> Gradients:
    return contiguous_like(q), contiguous_like(k), contiguous_like(v), contiguous_like(decay_sum), contiguous_like(beta)


@as_operator("delta_rule_fla", empty=_empty)
def delta_rule_fla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, offsets_P: Tensor | None, offsets_cpu_P: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """out_BTMV; for the backward also the decay's sums within chunks (fp32, BTM) and the chunks' inverses (k's dtype, BTMC)."""
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
            chunk_size=GDN_CHUNK,
        )
    return out.to(v.dtype).view(v.shape), decay_sum.view(log_decay.shape), inverse.view(*log_decay.shape, GDN_CHUNK)


@as_operator("delta_rule_fla_backward", empty=_empty_gradients)
def _backward(
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
    """fla sums the gradients of q and k over the value heads of each key head."""
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
            chunk_size=GDN_CHUNK,
        )
    return grad_q.view(q.shape), grad_k.view(k.shape), grad_v.view(v.shape), grad_log_decay.view(beta.shape), grad_beta.view(beta.shape)


def _packed(x_BT: Tensor, offsets_P: Tensor | None) -> Tensor:
    """The tensor as fla reads it: contiguous, and rows with documents as one long row."""
    x_BT = x_BT.contiguous()
    return x_BT if offsets_P is None else x_BT.flatten(0, 1).unsqueeze(0)


def _chunk_indices(offsets_P: Tensor | None, offsets_cpu_P: Tensor | None) -> Tensor | None:
    """fla's plan of the documents' chunks: (document, chunk in it). Planned on the CPU and copied without waiting for the GPU."""
    if offsets_P is None:
        return None
    from fla.ops.utils.index import prepare_chunk_indices

    return prepare_chunk_indices(offsets_cpu_P, GDN_CHUNK).to(offsets_P.device, non_blocking=True)


def _keep(inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
    q, k, v, _log_decay, beta, offsets_P, offsets_cpu_P = inputs
    _out, decay_sum, inverse = output
    return q, k, v, beta, decay_sum, inverse, offsets_P, offsets_cpu_P


def _gradients(grad_out: Tensor, _grad_decay_sum: None, _grad_inverse: None, *kept: Any) -> Gradients:
    """Nothing flows back into the sums and inverses."""
    return _backward(grad_out, *kept)


differentiate(delta_rule_fla, _gradients, keep=_keep, materialize_grads=False)
