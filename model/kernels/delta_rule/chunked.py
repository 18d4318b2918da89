"""The gated delta rule in chunks, in plain torch: the CPU's training kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents
from model.kernels.delta_rule.sizes import CHUNK

FORGET_ALL = -1000.0
"""A log decay whose exp is 0 in fp64 too, and small enough that the sums over a chunk stay exact to 1e-11."""


def gated_delta_rule_chunked(*, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, chunk: int = CHUNK) -> Tensor:
    """Same contract as `gated_delta_rule_reference` on rows without documents; the state has the inputs' dtype, so give it fp32 or wider.

    Inside a chunk the updates u solve (I + A) u = beta·(v − decayed Sᵀk), A strictly lower triangular, for all tokens at once;
    only the state goes from chunk to chunk (WY form, arXiv 2406.06484; C is the token within a chunk, Z the chunk).
    """
    num_tokens = q.shape[1]
    q_BNZCK, k_BNZCK, v_BNZCV = (_split(x, chunk) for x in (q, k, v))
    beta_BNZC1 = _split(beta.unsqueeze(-1), chunk)
    # fp64: in fp32 the differences below lose a small decay behind a large one (1e-5 in the output, 1e-7 so).
    # By a product: a cumsum has no deterministic kernel on a GPU.
    up_to_CC = torch.ones(chunk, chunk, dtype=torch.float64, device=log_decay.device).tril()
    decay_sum_BNZC1 = up_to_CC @ _split(log_decay.double().unsqueeze(-1), chunk)
    from_start = decay_sum_BNZC1.to(q.dtype).exp()
    to_end = (decay_sum_BNZC1[..., -1:, :] - decay_sum_BNZC1).to(q.dtype).exp()
    decay_BNZCC = _pairwise_decay(decay_sum_BNZC1, q.dtype)

    kk = beta_BNZC1 * (k_BNZCK @ k_BNZCK.mT) * decay_BNZCC
    right_hand_sides = beta_BNZC1 * torch.cat([v_BNZCV, k_BNZCK * from_start], dim=-1)
    solved = torch.linalg.solve_triangular(kk.tril(-1), right_hand_sides, upper=False, unitriangular=True)
    u_BNZCV, w_BNZCK = solved.split([v.shape[-1], k.shape[-1]], dim=-1)

    out_BNZCV = _scan_chunks(
        q=q_BNZCK * from_start,
        k=k_BNZCK * to_end,
        u=u_BNZCV,
        w=w_BNZCK,
        scores=(q_BNZCK @ k_BNZCK.mT) * decay_BNZCC,
        chunk_decay=from_start[..., -1:, :],
    )
    return out_BNZCV.flatten(2, 3)[:, :, :num_tokens].transpose(1, 2)


def forget_at_starts(log_decay_BTN: Tensor, documents: Documents | None) -> Tensor:
    """The log decay with which each document starts from an empty state; no gradient reaches the starts' own decays."""
    if documents is None:
        return log_decay_BTN
    return log_decay_BTN.masked_fill((documents.position_BT == 0).unsqueeze(-1), FORGET_ALL)


def _split(x_BTNK: Tensor, chunk: int) -> Tensor:
    """BNZCK, the last chunk filled up with zeros (no decay, no update)."""
    padding = -x_BTNK.shape[1] % chunk
    return F.pad(x_BTNK, (0, 0, 0, 0, 0, padding)).transpose(1, 2).unflatten(2, (-1, chunk))


def _pairwise_decay(decay_sum_BNZC1: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(sum over tokens j+1 … i) for i ≥ j, else 0. Masked before exp: above the diagonal it would overflow."""
    chunk = decay_sum_BNZC1.shape[-2]
    future_CC = torch.ones(chunk, chunk, dtype=torch.bool, device=decay_sum_BNZC1.device).triu(1)
    return (decay_sum_BNZC1 - decay_sum_BNZC1.mT).to(dtype).masked_fill(future_CC, -torch.inf).exp()


def _scan_chunks(*, q: Tensor, k: Tensor, u: Tensor, w: Tensor, scores: Tensor, chunk_decay: Tensor) -> Tensor:
    """out_BNZCV from the chunks' parts, carrying the state; q holds the decay from the chunk's start, k the decay to its end."""
    num_rows, num_heads, num_chunks, _, key_dim = k.shape
    state_BNKV = u.new_zeros(num_rows, num_heads, key_dim, u.shape[-1])
    outputs = []
    for z in range(num_chunks):
        update_BNCV = u[:, :, z] - w[:, :, z] @ state_BNKV
        outputs.append(q[:, :, z] @ state_BNKV + scores[:, :, z] @ update_BNCV)
        state_BNKV = chunk_decay[:, :, z] * state_BNKV + k[:, :, z].mT @ update_BNCV
    return torch.stack(outputs, dim=2)
