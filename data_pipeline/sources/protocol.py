"""What a source of raw documents promises. Each kind of source is one file of this room; `open.py` is the front door."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

TEXT_FIELD = "text"
"""The JSON field or Parquet column that holds a document."""
ID_FIELD = "id"
"""The one that holds a document's own name, where there is one."""
BYTE_ORDER_MARK = "\ufeff"
"""What some programs write before a text; it is none of it."""
CHUNK_BYTES = 2**20
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can write and UTF-8 can't."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text, and where it comes from."""

    text: str
    number: int
    """Of its line, record or row in the file, from 1."""
    id: str = ""
    """What its record calls itself; empty for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where in a source a chunk begins."""

    offset: int = 0
    """Bytes of the content before it, in files that are read by lines."""
    number: int = 1
    """Of its first line, record or row."""


BEGINNING = Place()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What tells that a file is still the same."""

    size_bytes: int
    modified_ns: int


class Chunk(Protocol):
    """A stretch of a source, which any process can make documents of."""

    @property
    def place(self) -> Place: ...

    @property
    def size(self) -> int:
        """About how much text it has, in bytes or characters."""

    @property
    def share(self) -> float:
        """How much of its file is read where it ends, up to 1."""

    def documents(self) -> Iterator[Document]:
        """Raises CorpusInvalid, which names the file and the remedy, where one can't be read."""


class Source(Protocol):
    """Raw documents in an order that never changes; they may be read as often as wanted, and are read only then."""

    def chunks(self, start: Place = BEGINNING) -> Iterator[Chunk]:
        """Everything from a chunk on. The chunks behind a place depend on the content alone, not on where reading began.

        Raises CorpusInvalid, which names the file and the remedy, where it can't be read.
        """

    def stamp(self) -> Stamp:
        """Raises CorpusInvalid where there is nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """A chunk of documents that are read."""

    place: Place
    size: int
    share: float
    read: tuple[Document, ...] = field(repr=False)

    def documents(self) -> Iterator[Document]:
        return cleaned(self.read)


def texts_in_chunks(documents: Iterable[tuple[Document, float]], start: Place) -> Iterator[Texts]:
    """Chunks of documents, each with how much of the file is read after it; those before `start` are passed over."""
    read: list[Document] = []
    size = 0
    for document, share in documents:
        if document.number < start.number:
            continue
        read.append(document)
        size += len(document.text)
        if size >= CHUNK_BYTES:
            yield Texts(place=Place(number=read[0].number), size=size, share=share, read=tuple(read))
            read, size = [], 0
    if read:
        yield Texts(place=Place(number=read[0].number), size=size, share=1.0, read=tuple(read))


def cleaned(documents: Iterable[Document]) -> Iterator[Document]:
    """Those that have text. No document begins with a byte order mark, and U+FFFD stands for half characters, as is usual."""
    for document in documents:
        text = document.text.removeprefix(BYTE_ORDER_MARK)
        if text and not text.isspace():
            yield replace(document, text=_LONE_SURROGATE.sub("\ufffd", text), id=_LONE_SURROGATE.sub("\ufffd", document.id))
