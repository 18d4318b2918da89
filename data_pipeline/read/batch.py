"""What one rank trains on in one step: its rows of tokens, the labels, and where documents begin."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.order.samples import SampleRef
from data_pipeline.read.buffers import Buffers
from data_pipeline.read.repetition import repetitive_rows
from data_pipeline.read.row_hash import row_hash

NO_LABEL = -100
"""What labels hold where there is nothing to learn, as everywhere in torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """The rows of one rank in one step, on the CPU, for as long as somebody holds them. B rows, T tokens, P documents + 1."""

    samples: tuple[SampleRef, ...]
    """The sample that each row was read from, in the order of the rows."""
    hashes: tuple[int, ...]
    """What says which tokens each row has: see `row_hash`."""
    tokens_BT: torch.Tensor
    """The inputs, int64."""
    labels_BT: torch.Tensor
    """The next token of each input, int64; across a document's end too, as OLMo does, or NO_LABEL there where documents are kept apart.
    They may share the memory of the inputs."""
    document_offsets_P: torch.Tensor
    """Where documents begin in the flattened rows, then B * T, int32. A document begins with each row and after each eos."""
    num_unread: int = 0
    """Rows that could not be read: eos, and nothing to learn."""
    num_repetitive: int = 0
    """Rows that the repetition filter leaves nothing to learn of."""


def build_batch(
    samples: Sequence[SampleRef],
    rows: Iterable[NDArray[np.unsignedinteger] | None],
    *,
    seq_len: int,
    eos_id: int,
    document_masking: bool,
    repetition_filter: bool = False,
    buffers: Buffers | None = None,
) -> TokenBatch:
    """`rows` are the T + 1 tokens of each sample, of any integers, or None for a row that could not be read: that is eos. One that is
    shorter is filled up with eos, from which nothing is learnt: that is one document more. All is done to a row as it comes, while the
    processor's cache has it: best they are read as they are asked for.

    With `document_masking` nothing is learnt from an eos, which can't know what follows. `buffers` have the memory that is used again.
    """
    read, lengths, hashes = (buffers or Buffers()).take(len(samples), seq_len + 1), np.zeros(len(samples), np.int64), []
    is_eos_BT, is_repetitive = np.empty((len(samples), seq_len), np.bool_), np.zeros(len(samples), np.bool_)
    for number, (row, place) in enumerate(zip(rows, read, strict=True)):
        found = place[:0] if row is None else row
        lengths[number] = len(found)
        place[: len(found)], place[len(found) :] = found, eos_id
        np.equal((found if len(found) > seq_len else place)[:-1], eos_id, out=is_eos_BT[number])
        hashes.append(row_hash(place))
    tokens_BT, labels_BT, is_unread = read[:, :-1], read[:, 1:], lengths == 0
    if repetition_filter:
        is_repetitive = repetitive_rows(_without_padding(tokens_BT, lengths)) & ~is_unread
    if document_masking or is_repetitive.any() or lengths.min() <= seq_len:
        is_blank_BT = (is_unread | is_repetitive)[:, None] | (document_masking & is_eos_BT)
        _leave_out_padding(is_blank_BT, is_eos_BT, lengths)
        labels_BT = np.where(is_blank_BT, NO_LABEL, labels_BT)
    return TokenBatch(
        samples=tuple(samples),
        hashes=tuple(hashes),
        tokens_BT=torch.from_numpy(tokens_BT),
        labels_BT=torch.from_numpy(labels_BT),
        document_offsets_P=torch.from_numpy(document_offsets(is_eos_BT)),
        num_unread=int(is_unread.sum()),
        num_repetitive=int(is_repetitive.sum()),
    )


def _without_padding(tokens_BT: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same tokens, and others that never repeat behind the last of a row."""
    num_tokens = tokens_BT.shape[1]
    if lengths.min() >= num_tokens:
        return tokens_BT
    places = np.arange(num_tokens)
    return np.where(places < lengths[:, None], tokens_BT, -1 - places)


def _leave_out_padding(is_blank_BT: NDArray[np.bool_], is_eos_BT: NDArray[np.bool_], lengths: NDArray[np.int64]) -> None:
    """What is behind the last token of rows that are shorter is blank, and one document."""
    for is_blank, is_eos, length in zip(is_blank_BT, is_eos_BT, lengths.tolist(), strict=True):
        if 0 < length <= len(is_eos):
            is_blank[length - 1 :] = True
            is_eos[length - 1], is_eos[length:] = True, False


def document_offsets(is_eos_BT: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Where documents begin in the flattened rows, then the number of tokens; shape (P,)."""
    begins = np.empty(is_eos_BT.size + 1, np.bool_)
    begins[1:] = is_eos_BT.reshape(-1)
    begins[:: is_eos_BT.shape[1]] = True
    return np.flatnonzero(begins).astype(np.int32)
