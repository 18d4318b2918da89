"""Best-fit packing: which documents share a row. Pure.

A row has room for T + 1 tokens, T inputs and the label of the last. A document goes into one row, whole. One that is longer is cut into
pieces that fill a row each, the last label of one being the first input of the next; what is left of it is packed as a document is.

A window is as many pieces of a shard, as they come, as R rows have room for by best-fit decreasing: the longest first, each into the
fullest row that has room for it. So the rows of a window hold tokens that follow each other; who reads them all reads these once.
Source: Ding et al., "Fewer Truncations Improve Language Modeling", 2024; the windows are ours.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.order.blocks import BLOCK_TOKENS
from data_pipeline.order.vectors import Ints

VERSION = 1
"""Changes with whatever changes which rows come of the same documents."""
FEWEST_ROWS, MOST_ROWS = 16, 4096
"""Of a window: the last of its rows is full by half, and who packs it looks at all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Documents or parts of them, in the order of a shard."""

    starts: Ints
    """The first token of each, in the shard."""
    counts: Ints
    """Tokens, from 1 to T + 1."""

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, chosen: slice | Ints) -> "Pieces":
        return Pieces(self.starts[chosen], self.counts[chosen])


NO_PIECES = Pieces(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Rows, each of pieces that lie in the order of the shard."""

    pieces: Pieces
    """Row after row."""
    row_ends: Ints
    """For each row, the number of pieces in it and in all rows before it."""


def window_rows(seq_len: int) -> int:
    """R, for rows of so many tokens: about a block."""
    return min(MOST_ROWS, max(FEWEST_ROWS, BLOCK_TOKENS // seq_len))


def pack(lengths: Iterable[Ints], *, seq_len: int, num_rows: int) -> Iterator[Window]:
    """The windows of a shard whose documents, one after the other, have so many tokens: all of `num_rows` rows but the last."""
    pending, read = NO_PIECES, 0
    for some in lengths:
        pending = _joined(pending, cut(some, first=read, seq_len=seq_len))
        read += int(some.sum())
        while pending.counts.sum() > num_rows * (seq_len + 1):
            window, pending = _first_window(pending, seq_len, num_rows)
            yield window
    while len(pending):
        window, pending = _first_window(pending, seq_len, num_rows)
        yield window


def cut(lengths: Ints, *, first: int, seq_len: int) -> Pieces:
    """The pieces of documents that follow each other, of which the first begins with token `first` of the shard."""
    whole = (lengths - 1) // seq_len
    num_pieces = np.where(whole > 0, whole + (lengths - whole * seq_len > 1), 1)
    document = np.repeat(np.arange(len(lengths)), num_pieces)
    number = np.arange(len(document)) - (num_pieces.cumsum() - num_pieces)[document]
    starts = (first + lengths.cumsum() - lengths)[document] + number * seq_len
    return Pieces(starts, np.minimum(seq_len + 1, lengths[document] - number * seq_len))


def _first_window(pending: Pieces, seq_len: int, num_rows: int) -> tuple[Window, Pieces]:
    """Of what comes next as many pieces as rows have room for, and the pieces behind them."""
    room = seq_len + 1
    length = int(np.searchsorted(pending.counts.cumsum(), num_rows * room, side="right"))
    while True:
        counts = pending.counts[:length]
        rows, numbers = Rows(num_rows, room), np.full(length, -1)
        order = np.argsort(-counts, kind="stable")
        numbers[order] = [rows.put(count) for count in counts[order].tolist()]
        num_left = int(counts[numbers < 0].sum())
        if not num_left:
            break
        length -= int(np.searchsorted(counts[::-1].cumsum(), num_left)) + 1  # as many tokens as found no room
    numbers = np.concatenate([numbers, np.array(list(_as_long_as_they_fit(rows, pending.counts[length:])), np.int64)])
    taken = np.lexsort((np.arange(len(numbers)), numbers))
    return Window(pending.part(taken), np.bincount(numbers).cumsum()), pending.part(slice(len(numbers), None))


def _as_long_as_they_fit(rows: "Rows", counts: Ints) -> Iterator[int]:
    """The rows of what comes then, up to the first for which none has room: so that there are as many rows as there may be."""
    for count in counts.tolist():
        row = rows.put(count)
        if row < 0:
            return
        yield row


class Rows:
    """Rows that are being filled."""

    def __init__(self, most: int, room: int) -> None:
        """There may be `most`, each with room for so many tokens."""
        self._most, self._room = most, room
        self._left: list[int] = []
        """What room each row has, times `most`, and its number: in order."""

    def put(self, count: int) -> int:
        """The row that a piece goes into: the fullest that has room for it, or a new one; -1 where it goes into none."""
        at = bisect_left(self._left, count * self._most)
        if at < len(self._left):
            found = self._left.pop(at)
        elif len(self._left) < self._most:
            found = self._room * self._most + len(self._left)
        else:
            return -1
        insort(self._left, found - count * self._most)
        return found % self._most


def _joined(first: Pieces, second: Pieces) -> Pieces:
    return Pieces(np.concatenate([first.starts, second.starts]), np.concatenate([first.counts, second.counts]))
