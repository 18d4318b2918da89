"""What a source of raw documents promises. Each kind of source is one file of this room; `open.py` is the front door."""

from collections.abc import Iterator
from typing import Protocol

TEXT_FIELD = "text"
"""The JSON field or Parquet column that holds a document."""
BYTE_ORDER_MARK = "\ufeff"
"""What some programs write before a text; it is none of it."""


class Source(Protocol):
    """Raw documents in an order that never changes; they may be iterated over as often as wanted, and are read only then.

    Iterating raises CorpusInvalid, which names the file and the remedy, where a document can't be read.
    """

    def __iter__(self) -> Iterator[str]: ...
