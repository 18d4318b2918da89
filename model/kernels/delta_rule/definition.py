"""The gated delta rule, one token at a time: the definition that every faster kernel is tested against."""

import torch
from torch import Tensor

from model.documents import Documents


def gated_delta_rule_reference(
    *, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, documents: Documents | None = None
) -> Tensor:
    """out_BTNV from q_BTNK, k_BTNK, v_BTNV, log_decay_BTN (≤ 0) and beta_BTN (0…2), in the inputs' dtype.

    Per head, with a state S of shape K × V that is zero at the start of each document, or of the row (Gated DeltaNet, arXiv 2412.06464):

        S ← exp(log_decay)·S ;  u = beta·(v − Sᵀk) ;  S ← S + k uᵀ ;  out = Sᵀq

    q and k come normalised and q scaled.
    """
    num_rows, num_tokens, num_heads, key_dim = q.shape
    state_BNKV = q.new_zeros(num_rows, num_heads, key_dim, v.shape[-1])
    outputs = []
    for t in range(num_tokens):
        if documents is not None:
            is_start_B = documents.position_BT[:, t] == 0
            state_BNKV = state_BNKV.masked_fill(is_start_B[:, None, None, None], 0)
        k_BNK1 = k[:, t].unsqueeze(-1)
        state_BNKV = state_BNKV * log_decay[:, t, :, None, None].exp()
        recalled_BNV = (state_BNKV * k_BNK1).sum(-2)
        update_BNV = beta[:, t, :, None] * (v[:, t] - recalled_BNV)
        state_BNKV = state_BNKV + k_BNK1 * update_BNV.unsqueeze(-2)
        outputs.append((state_BNKV * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(outputs, dim=1)
