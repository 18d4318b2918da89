"""Causal attention over a sliding window of the token's own document, by the kernel that suits device and dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents


def attend(*, q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor, window: int | None, documents: Documents | None) -> Tensor:
    """out_BTNK: each token sees the last `window` tokens of its document, its own included; all of them where that is None.

    Scores are scaled by K^-0.5. Where a window or documents cut the row, 16 bits on a GPU take flash attention;
    other dtypes and devices a dense mask, of T × T per row.
    """
    num_tokens = q_BTNK.shape[1]
    if window is not None and window >= num_tokens:
        window = None
    if window is None and documents is None:
        return attend_dense(q_BTNK, k_BTNK, v_BTNK, None)
    if _flash_takes(q_BTNK):
        return attend_flash(q_BTNK, k_BTNK, v_BTNK, window, documents)
    return attend_dense(q_BTNK, k_BTNK, v_BTNK, visible(num_tokens, window, documents, q_BTNK.device))


def visible(num_tokens: int, window: int | None, documents: Documents | None, device: torch.device) -> Tensor:
    """Whether token i sees token j, bool, [B or 1, 1, T, T]: j is not after i, nor further back than i's document and window reach."""
    token_T = torch.arange(num_tokens, device=device)
    reach_BT = token_T.unsqueeze(0) if documents is None else documents.position_BT
    if window is not None:
        reach_BT = reach_BT.clamp(max=window - 1)
    age_TT = token_T.unsqueeze(1) - token_T
    return ((age_TT >= 0) & (age_TT <= reach_BT.unsqueeze(-1))).unsqueeze(1)


def attend_dense(q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` under a mask from `visible`; plainly causal without one."""
    q_BNTK, k_BNTK, v_BNTK = (x.transpose(1, 2) for x in (q_BTNK, k_BTNK, v_BTNK))
    return F.scaled_dot_product_attention(q_BNTK, k_BNTK, v_BNTK, attn_mask=mask, is_causal=mask is None).transpose(1, 2)


def _flash_takes(q_BTNK: Tensor) -> bool:
    head_dim = q_BTNK.shape[-1]
    return q_BTNK.is_cuda and q_BTNK.dtype in (torch.bfloat16, torch.float16) and head_dim % 8 == 0 and head_dim <= 256


def attend_flash(q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor, window: int | None, documents: Documents | None) -> Tensor:
    """`attend` by flash attention over the rows, or their documents, one after the other."""
    from torch.nn.attention.varlen import varlen_attn  # 1.6 s to import, with all of torch.compile

    num_rows, num_tokens = q_BTNK.shape[:2]
    if documents is None:
        offsets_P = torch.arange(num_rows + 1, dtype=torch.int32, device=q_BTNK.device) * num_tokens
        longest = num_tokens
    else:
        offsets_P, longest = documents.offsets_P, documents.max_length
    q, k, v = (x.flatten(0, 1) for x in (q_BTNK, k_BTNK, v_BTNK))
    # A window of W sees W tokens back beside its own; -1 is no bound.
    window_size = (-1 if window is None else window - 1, 0)
    out = varlen_attn(q, k, v, offsets_P, offsets_P, longest, longest, window_size=window_size)
    assert isinstance(out, Tensor)  # a pair only where the log-sum-exp is asked for
    return out.unflatten(0, (num_rows, num_tokens))
