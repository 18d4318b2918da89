"""Documents that are too long to be encoded at once: windows of text that overlap, and the tokens of all of them as one. Pure.

What a tokenizer makes of a place in a text depends on the text around it, and in all that are in use on little of it. So two windows
are joined where both have the very same tokens for a stretch of the text that they share.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """The tokens of one window."""

    start: int
    """Where its window begins in the document, in characters."""
    ids: Ids
    """Shape (N,)."""
    span: Callable[[int], tuple[int, int]]
    """Where a token begins and ends in the window, in characters."""

    def within(self, begin: int, end: int) -> range:
        """The tokens that lie between two places of the document."""
        tokens = range(len(self.ids))
        first = bisect_left(tokens, begin - self.start, key=lambda token: self.span(token)[0])
        return range(first, max(first, bisect_right(tokens, end - self.start, key=lambda token: self.span(token)[1])))

    def read(self, tokens: range) -> list[tuple[int, int, int]]:
        """Each token, and where it begins and ends in the document."""
        spans = (self.span(token) for token in tokens)
        return [(int(self.ids[token]), self.start + begin, self.start + end) for token, (begin, end) in zip(tokens, spans, strict=True)]


def windows(num_characters: int, *, size: int, overlap: int) -> list[range]:
    """Where the windows of a document lie: each begins `overlap` characters before the end of the one before."""
    starts = range(0, max(1, num_characters - overlap), size - overlap)
    return [range(start, min(start + size, num_characters)) for start in starts]


def joined(pieces: Iterable[Piece], *, overlap: int) -> Iterator[Ids]:
    """The document's tokens, part by part. Raises Apart where two windows have different tokens for the middle of what they share."""
    before: Piece | None = None
    begin = 0
    for piece in pieces:
        if before is not None:
            end, next_begin = _meeting(before, piece, overlap)
            yield before.ids[begin:end]
            begin = next_begin
        before = piece
    if before is not None:
        yield before.ids[begin:]


class Apart(Exception):
    """Windows must be larger, and share more."""


def _meeting(before: Piece, after: Piece, overlap: int) -> tuple[int, int]:
    """The token, in each of two pieces, at which one goes over into the other."""
    middle = after.start + overlap // 2
    its, others = (piece.within(middle - overlap // 4, middle + overlap // 4) for piece in (before, after))
    if not its or before.read(its) != after.read(others):
        raise Apart
    return its.start, others.start
