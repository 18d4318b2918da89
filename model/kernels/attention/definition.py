"""Causal attention over a sliding window of the token's own document, in plain torch: the definition of `operator`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents


def attend(*, q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor, window: int | None, documents: Documents | None) -> Tensor:
    """out_BTNK: each token sees the last `window` tokens of its document, its own included; all of them where that is None.

    Scores are scaled by K^-0.5. Where a window or documents cut the row, the mask is T × T per row.
    """
    num_tokens = q_BTNK.shape[1]
    is_cut = documents is not None or (window is not None and window < num_tokens)
    mask = visible(num_tokens, window, documents, q_BTNK.device) if is_cut else None
    q_BNTK, k_BNTK, v_BNTK = (x.transpose(1, 2) for x in (q_BTNK, k_BTNK, v_BTNK))
    return F.scaled_dot_product_attention(q_BNTK, k_BNTK, v_BNTK, attn_mask=mask, is_causal=mask is None).transpose(1, 2)


def visible(num_tokens: int, window: int | None, documents: Documents | None, device: torch.device) -> Tensor:
    """Whether token i sees token j, bool, [B or 1, 1, T, T]: j is not after i, nor further back than i's document and window reach."""
    token_T = torch.arange(num_tokens, device=device)
    reach_BT = token_T.unsqueeze(0) if documents is None else documents.position_BT
    if window is not None:
        reach_BT = reach_BT.clamp(max=window - 1)
    age_TT = token_T.unsqueeze(1) - token_T
    return ((age_TT >= 0) & (age_TT <= reach_BT.unsqueeze(-1))).unsqueeze(1)
