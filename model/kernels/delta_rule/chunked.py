"""The gated delta rule in chunks, in plain torch: the CPU's training kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents
from model.kernels.delta_rule.definition import per_value_head
from model.kernels.delta_rule.sizes import GDN_CHUNK

FORGET_ALL = -1000.0
"""A log decay whose exp is 0 in fp64 too, and small enough that the sums over a chunk stay exact to 1e-11."""


def gated_delta_rule_chunked(*, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, chunk: int = GDN_CHUNK) -> Tensor:
    """`definition.gated_delta_rule` of rows without documents; the state has the inputs' dtype, so give it fp32 or wider.

    Inside a chunk the updates u solve (I + A) u = beta·(v − decayed Sᵀk), A strictly lower triangular, for all tokens at once;
    only the state goes from chunk to chunk (WY form, arXiv 2406.06484; C is the token within a chunk, Z the chunk).
    """
    num_tokens, num_heads = v.shape[1:3]
    q_BNZCK, k_BNZCK, v_BMZCV = (_split(x, chunk) for x in (q, k, v))
    beta_BMZC1 = _split(beta.unsqueeze(-1), chunk)
    # fp64: in fp32 the differences below lose a small decay behind a large one (1e-5 in the output, 1e-7 so).
    # By a product: a cumsum has no deterministic kernel on a GPU.
    up_to_CC = torch.ones(chunk, chunk, dtype=torch.float64, device=log_decay.device).tril()
    decay_sum_BMZC1 = up_to_CC @ _split(log_decay.double().unsqueeze(-1), chunk)
    from_start = decay_sum_BMZC1.to(q.dtype).exp()
    to_end = (decay_sum_BMZC1[..., -1:, :] - decay_sum_BMZC1).to(q.dtype).exp()
    decay_BMZCC = _pairwise_decay(decay_sum_BMZC1, q.dtype)

    q_BMZCK, k_BMZCK = (per_value_head(x, num_heads, dim=1) for x in (q_BNZCK, k_BNZCK))
    below_BMZCC = beta_BMZC1 * per_value_head(k_BNZCK @ k_BNZCK.mT, num_heads, dim=1) * decay_BMZCC
    right_hand_sides = beta_BMZC1 * torch.cat([v_BMZCV, k_BMZCK * from_start], dim=-1)
    solved = torch.linalg.solve_triangular(below_BMZCC.tril(-1), right_hand_sides, upper=False, unitriangular=True)
    u_BMZCV, w_BMZCK = solved.split([v.shape[-1], k.shape[-1]], dim=-1)

    out_BMZCV = _scan_chunks(
        q=q_BMZCK * from_start,
        k=k_BMZCK * to_end,
        u=u_BMZCV,
        w=w_BMZCK,
        scores=per_value_head(q_BNZCK @ k_BNZCK.mT, num_heads, dim=1) * decay_BMZCC,
        chunk_decay=from_start[..., -1:, :],
    )
    return out_BMZCV.flatten(2, 3)[:, :, :num_tokens].transpose(1, 2)


def forget_at_starts(log_decay_BTM: Tensor, documents: Documents | None) -> Tensor:
    """The log decay with which each document starts from an empty state; no gradient reaches the starts' own decays."""
    if documents is None:
        return log_decay_BTM
    return log_decay_BTM.masked_fill((documents.position_BT == 0).unsqueeze(-1), FORGET_ALL)


def _split(x_BTNK: Tensor, chunk: int) -> Tensor:
    """BNZCK, the last chunk filled up with zeros (no decay, no update)."""
    padding = -x_BTNK.shape[1] % chunk
    return F.pad(x_BTNK, (0, 0, 0, 0, 0, padding)).transpose(1, 2).unflatten(2, (-1, chunk))


def _pairwise_decay(decay_sum_BMZC1: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(sum over tokens j+1 … i) for i ≥ j, else 0. Masked before exp: above the diagonal it would overflow."""
    chunk = decay_sum_BMZC1.shape[-2]
    future_CC = torch.ones(chunk, chunk, dtype=torch.bool, device=decay_sum_BMZC1.device).triu(1)
    return (decay_sum_BMZC1 - decay_sum_BMZC1.mT).to(dtype).masked_fill(future_CC, -torch.inf).exp()


def _scan_chunks(*, q: Tensor, k: Tensor, u: Tensor, w: Tensor, scores: Tensor, chunk_decay: Tensor) -> Tensor:
    """out_BMZCV from the chunks' parts, carrying the state; q holds the decay from the chunk's start, k the decay to its end."""
    num_rows, num_heads, num_chunks, _, key_dim = k.shape
    state_BMKV = u.new_zeros(num_rows, num_heads, key_dim, u.shape[-1])
    outputs = []
    for z in range(num_chunks):
        update_BMCV = u[:, :, z] - w[:, :, z] @ state_BMKV
        outputs.append(q[:, :, z] @ state_BMKV + scores[:, :, z] @ update_BMCV)
        state_BMKV = chunk_decay[:, :, z] * state_BMKV + k[:, :, z].mT @ update_BMCV
    return torch.stack(outputs, dim=2)
