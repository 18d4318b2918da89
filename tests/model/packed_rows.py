"""Packed rows for the kernels' tests."""

import torch

from model.documents import Documents, build_documents

Starts = tuple[tuple[int, ...], ...]
"""Where documents start in each row."""
ODD_STARTS: Starts = ((0, 1, 2, 20, 37, 80, 82), (0, 50))
"""In rows of 83: documents of one token at the row's start and end, and some that straddle multiples of 16 and of 64."""


def spans(starts: Starts, num_tokens: int) -> list[tuple[int, int, int]]:
    """(row, first token, token after the last) of each document."""
    return [
        (row, start, end)
        for row, row_starts in enumerate(starts)
        for start, end in zip(row_starts, (*row_starts[1:], num_tokens), strict=True)
    ]


def packed(starts: Starts, num_tokens: int) -> Documents:
    offsets = [row * num_tokens + start for row, start, _ in spans(starts, num_tokens)]
    ends = torch.tensor([*offsets, len(starts) * num_tokens])
    return build_documents(ends, num_rows=len(starts), num_tokens=num_tokens, device=torch.device("cpu"))
