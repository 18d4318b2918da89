"""The gated delta rule, one token at a time: the definition that every faster kernel is tested against."""

import torch
from torch import Tensor

from model.documents import Documents


def gated_delta_rule(*, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, documents: Documents | None = None) -> Tensor:
    """out_BTMV from q_BTNK, k_BTNK, v_BTMV, log_decay_BTM (≤ 0) and beta_BTM (0…2), in the inputs' dtype.

    Per value head, with a state S of shape K × V that is zero at the start of each document, or of the row (Gated DeltaNet,
    arXiv 2412.06464):

        S ← exp(log_decay)·S ;  u = beta·(v − Sᵀk) ;  S ← S + k uᵀ ;  out = Sᵀq

    q and k come normalised and q scaled. Value head m reads and writes with key head m // (M / N); M is a multiple of N.
    """
    num_rows, num_tokens, num_heads, value_dim = v.shape
    q, k = (per_value_head(x_BTNK, num_heads, dim=2) for x_BTNK in (q, k))
    state_BMKV = q.new_zeros(num_rows, num_heads, k.shape[-1], value_dim)
    outputs = []
    for t in range(num_tokens):
        if documents is not None:
            is_start_B = documents.position_BT[:, t] == 0
            state_BMKV = state_BMKV.masked_fill(is_start_B[:, None, None, None], 0)
        k_BMK1 = k[:, t].unsqueeze(-1)
        state_BMKV = state_BMKV * log_decay[:, t, :, None, None].exp()
        recalled_BMV = (state_BMKV * k_BMK1).sum(-2)
        update_BMV = beta[:, t, :, None] * (v[:, t] - recalled_BMV)
        state_BMKV = state_BMKV + k_BMK1 * update_BMV.unsqueeze(-2)
        outputs.append((state_BMKV * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(outputs, dim=1)


def per_value_head(x: Tensor, num_heads: int, *, dim: int) -> Tensor:
    """x with the N key heads in `dim` repeated for the M value heads: value head m takes key head m // (M / N)."""
    group = num_heads // x.shape[dim]
    return x if group == 1 else x.repeat_interleave(group, dim)
