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
    rows: Sequence[NDArray[np.unsignedinteger] | None],
    *,
    seq_len: int,
    eos_id: int,
    document_masking: bool,
    repetition_filter: bool = False,
) -> TokenBatch:
    """`rows` are the tokens of each sample, T + 1 of any integers, or None for a row that could not be read: that is eos. Each is widened
    where it comes to lie, and copied nowhere else. One that is shorter is filled up with eos, from which nothing is learnt: that is one
    document more.

    With `document_masking` nothing is learnt from an eos, which can't know what follows.
    """
    tokens_BT, labels_BT = np.empty((2, len(rows), seq_len), np.int64)
    is_eos_BT = np.empty(tokens_BT.shape, np.bool_)
    is_unread, is_repetitive = np.array([row is None for row in rows]), np.zeros(len(rows), np.bool_)
    lengths, hashes = [seq_len + 1 if row is None else len(row) for row in rows], []
    blank = np.full(seq_len + 1, eos_id)
    for row, tokens, labels, is_eos in zip(rows, tokens_BT, labels_BT, is_eos_BT, strict=True):
        read = blank if row is None else row if len(row) > seq_len else np.concatenate([row, blank[len(row) :]])
        tokens[:], labels[:] = read[:-1], read[1:]
        np.equal(read[:-1], eos_id, out=is_eos)
        hashes.append(row_hash(tokens, labels[-1:]))
    if document_masking:
        labels_BT[is_eos_BT] = NO_LABEL
    if repetition_filter:
        is_repetitive = repetitive_rows(_without_padding(tokens_BT, lengths)) & ~is_unread
    _leave_out_padding(labels_BT, is_eos_BT, lengths)
    labels_BT[is_unread | is_repetitive] = NO_LABEL
    return TokenBatch(
        samples=tuple(samples),
        hashes=tuple(hashes),
        tokens_BT=torch.from_numpy(tokens_BT),
        labels_BT=torch.from_numpy(labels_BT),
        document_offsets_P=torch.from_numpy(document_offsets(is_eos_BT)),
        num_unread=int(is_unread.sum()),
        num_repetitive=int(is_repetitive.sum()),
    )


def _without_padding(tokens_BT: NDArray[np.int64], lengths: Sequence[int]) -> NDArray[np.int64]:
    """The same tokens, and others that never repeat in place of padding."""
    num_tokens = tokens_BT.shape[1]
    if min(lengths) >= num_tokens:
        return tokens_BT
    found = tokens_BT.copy()
    for tokens, length in zip(found, lengths, strict=True):
        tokens[length:] = np.arange(-1, min(length, num_tokens) - num_tokens - 1, -1)
    return found


def _leave_out_padding(labels_BT: NDArray[np.int64], is_eos_BT: NDArray[np.bool_], lengths: Sequence[int]) -> None:
    """Nothing is learnt of what lies behind a row's last token, and all of that is one document."""
    for labels, is_eos, length in zip(labels_BT, is_eos_BT, lengths, strict=True):
        if length <= len(labels):
            labels[length - 1 :] = NO_LABEL
            is_eos[length - 1], is_eos[length:] = True, False


def document_offsets(is_eos_BT: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where documents begin in the flattened rows, then the number of tokens; shape (P,)."""
    begins = np.empty(is_eos_BT.size + 1, np.bool_)
    begins[1:] = is_eos_BT.reshape(-1)
    begins[:: is_eos_BT.shape[1]] = True
    return np.flatnonzero(begins).astype(np.int32)
