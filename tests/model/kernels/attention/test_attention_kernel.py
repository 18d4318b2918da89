"""Windowed attention over packed documents, against one token at a time."""

import math

import pytest
import torch
import torch.nn.attention.varlen
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents
from model.kernels.attention.operator import attend, attend_flash
from tests.model.packed_rows import packed, spans

NUM_ROWS, NUM_TOKENS, NUM_HEADS, HEAD_DIM = 2, 17, 3, 8
STARTS = ((0, 1, 2, 10, 16), (0, 9))
CASES = [(None, False), (NUM_TOKENS, False), (1, False), (5, False), (None, True), (5, True), (10 * NUM_TOKENS, True)]
"""(window, whether the rows are packed)"""


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, NUM_ROWS, NUM_TOKENS, NUM_HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def token_by_token(q_BTNK: Tensor, k_BTNK: Tensor, v_BTNK: Tensor, window: int | None, is_packed: bool) -> Tensor:
    outputs = []
    for row, start, end in spans(STARTS if is_packed else ((0,),) * NUM_ROWS, NUM_TOKENS):
        for t in range(start, end):
            seen = slice(start if window is None else max(start, t + 1 - window), t + 1)
            scores_TN = (q_BTNK[row, t] * k_BTNK[row, seen]).sum(-1) / math.sqrt(HEAD_DIM)
            outputs.append((scores_TN.softmax(0).unsqueeze(-1) * v_BTNK[row, seen]).sum(0))
    return torch.stack(outputs).view_as(q_BTNK)


def with_gradients(out: Tensor, parts: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    weight = torch.linspace(-3, 3, out.numel(), dtype=out.dtype).cos().view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), parts)]


@pytest.mark.parametrize(("window", "is_packed"), CASES)
def test_a_token_sees_its_window_of_its_own_document(window: int | None, is_packed: bool) -> None:
    q, k, v = parts = inputs()
    ours = attend(q_BTNK=q, k_BTNK=k, v_BTNK=v, window=window, documents=packed(STARTS, NUM_TOKENS) if is_packed else None)
    torch.testing.assert_close(
        with_gradients(ours, parts), with_gradients(token_by_token(q, k, v, window, is_packed), parts), rtol=0, atol=1e-13
    )


def varlen_by_documentation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
) -> Tensor:
    """What PyTorch says of varlen_attn: sequences one after the other, `left` tokens back beside the own one (-1: all), none ahead."""
    left, right = window_size
    assert right == 0
    assert cu_seq_q.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert torch.equal(cu_seq_q, cu_seq_k)
    outputs = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        token = torch.arange(end - start)
        age = token.unsqueeze(1) - token
        mask = (age >= 0) & ((age <= left) if left >= 0 else True)
        q_NTK, k_NTK, v_NTK = (x[start:end].transpose(0, 1) for x in (query, key, value))
        outputs.append(F.scaled_dot_product_attention(q_NTK, k_NTK, v_NTK, attn_mask=mask).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("window", "documents"), [(5, None), (1, None), (None, packed(STARTS, NUM_TOKENS)), (5, packed(STARTS, NUM_TOKENS))]
)
def test_flash_attention_is_asked_for_the_same(monkeypatch: pytest.MonkeyPatch, window: int | None, documents: Documents | None) -> None:
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_by_documentation)
    q, k, v = inputs()
    flash = attend_flash(q, k, v, window, documents)
    torch.testing.assert_close(flash, attend(q_BTNK=q, k_BTNK=k, v_BTNK=v, window=window, documents=documents), rtol=0, atol=1e-13)
