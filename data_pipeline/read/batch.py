"""What one rank trains on in one step: its rows of tokens, the labels, and where documents begin."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.order.samples import SampleRef
from data_pipeline.read.repetition import repetitive_rows
from data_pipeline.read.row_hash import row_hash

NO_LABEL = -100
"""What labels hold where there is nothing to learn, as everywhere in torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """The rows of one rank in one step, on the CPU. B rows, T tokens, P documents + 1."""

    samples: tuple[SampleRef, ...]
    """The sample that each row was read from, in the order of the rows."""
    hashes: tuple[int, ...]
    """What says which tokens each row has: see `row_hash`."""
    tokens_BT: torch.Tensor
    """The inputs, int64."""
    labels_BT: torch.Tensor
    """The next token of each input, int64; across a document's end too, as OLMo does, or NO_LABEL there where documents are kept apart."""
    document_offsets_P: torch.Tensor
    """Where documents begin in the flattened rows, then B * T, int32. A document begins with each row and after each eos."""
    num_unread: int = 0
    """Rows that could not be read: eos, and nothing to learn."""
    num_repetitive: int = 0
    """Rows that the repetition filter leaves nothing to learn of."""


def build_batch(
    samples: Sequence[SampleRef],
    rows: Sequence[NDArray[np.int64]],
    *,
    eos_id: int,
    document_masking: bool,
    repetition_filter: bool = False,
    unread: Sequence[int] = (),
) -> TokenBatch:
    """`rows` are the T + 1 tokens of each sample. With `document_masking` nothing is learnt from an eos, which can't know what follows.

    `unread` are the numbers of rows that stand for what could not be read; with `repetition_filter` nothing is learnt from others either.
    """
    stacked = np.stack(rows)
    tokens_BT, labels_BT = np.ascontiguousarray(stacked[:, :-1]), np.ascontiguousarray(stacked[:, 1:])
    if document_masking:
        labels_BT[tokens_BT == eos_id] = NO_LABEL
    is_unread, is_repetitive = np.isin(np.arange(len(rows)), unread), np.zeros(len(rows), dtype=np.bool_)
    if repetition_filter:
        is_repetitive = repetitive_rows(tokens_BT) & ~is_unread
    labels_BT[is_unread | is_repetitive] = NO_LABEL
    return TokenBatch(
        samples=tuple(samples),
        hashes=tuple(map(row_hash, stacked)),
        tokens_BT=torch.from_numpy(tokens_BT),
        labels_BT=torch.from_numpy(labels_BT),
        document_offsets_P=torch.from_numpy(document_offsets(tokens_BT, eos_id)),
        num_unread=int(is_unread.sum()),
        num_repetitive=int(is_repetitive.sum()),
    )


def document_offsets(tokens_BT: NDArray[np.int64], eos_id: int) -> NDArray[np.int32]:
    """Where documents begin in the flattened rows, then the number of tokens; shape (P,)."""
    num_rows, seq_len = tokens_BT.shape
    row_starts = np.arange(num_rows + 1) * seq_len
    after_eos = np.flatnonzero(tokens_BT == eos_id) + 1
    return np.union1d(row_starts, after_eos).astype(np.int32)
