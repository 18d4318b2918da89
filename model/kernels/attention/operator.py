"""Causal attention over a sliding window of the token's own document, by the kernel that suits device and dtype."""

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.attention import definition


def attend(*, q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor, window: int | None, documents: Documents | None) -> Tensor:
    """out_BTNK: each token sees the last `window` tokens of its document, its own included; all of them where that is None.

    Scores are scaled by K^-0.5. Where a window or documents cut the row, 16 bits on a GPU take flash attention;
    other dtypes and devices a dense mask, of T × T per row.
    """
    if window is not None and window >= q_BTNK.shape[1]:
        window = None
    if (window is not None or documents is not None) and _flash_takes(q_BTNK):
        return attend_flash(q_BTNK, k_BTNK, v_BTNK, window, documents)
    return definition.attend(q_BTNK=q_BTNK, k_BTNK=k_BTNK, v_BTNK=v_BTNK, window=window, documents=documents)


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
