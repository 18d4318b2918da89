"""Which documents a shard is made of: where each begins, and which file and record it comes from.

An object beside each shard, whose head names its pages of 1,024 documents, so that a few of them are found by reading little:

    {"pages": [[first token of the page's documents, its size in bytes, its XXH3], …]}
    "file.jsonl"                    the documents below come from this file of the corpus; every page begins with such a line
    [512,17,"id"]                   a document: its tokens, eos included; its line, record or row in the file; its own id, where it has one
"""

import bisect
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from data_pipeline.dataset.batches import EncodedBatch
from data_pipeline.dataset.manifest import DocumentTable, ShardRef
from data_pipeline.dataset.pages import checksum
from data_pipeline.errors import DocumentsUnknown, ShardCorrupt
from data_pipeline.store.protocol import KeyMissing, ObjectStore

PAGE_DOCUMENTS = 1024
_REBUILD = "rebuild the dataset with `braid data build`"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardDocument:
    """A document of a shard."""

    file: str
    """Of the corpus, below its directory."""
    number: int
    """Its line, record or row in the file, from 1."""
    id: str
    """What its record calls itself; empty for none."""
    start: int
    """Its first token in the shard."""
    end: int
    """The token behind its eos."""


def documents_in(store: ObjectStore, shard: ShardRef, tokens: range) -> list[ShardDocument]:
    """The documents that have some of these tokens of a shard, in order: two small reads, whatever the shard's size.

    Raises DocumentsUnknown for datasets of earlier versions and of others, ShardCorrupt, or what the store raises.
    """
    documents = (document for first, page in _pages(store, shard, tokens) for document in _documents_of(page, first))
    return [document for document in documents if document.start < tokens.stop and document.end > tokens.start]


def lengths_in(store: ObjectStore, shard: ShardRef) -> Iterator[list[int]]:
    """The tokens of all documents of a shard, in order, some documents at a time. Raises as `documents_in`."""
    end = 0
    for first, page in _pages(store, shard, range(shard.num_tokens)):
        rows = json.loads(b"[%b]" % page.rstrip().replace(b"\n", b","))
        lengths = [row[0] for row in rows if not isinstance(row, str)]
        if first != end:
            break
        end += sum(lengths)
        yield lengths
    if shard.documents is not None and end != shard.num_tokens:
        raise _corrupt(store, shard.documents.key)


def check_table(store: ObjectStore, shard: ShardRef, *, num_eos: int) -> None:
    """Raises as `documents_in`, and ShardCorrupt where the documents of the table are not those of the shard, which has so many."""
    end = num_documents = 0
    for first, page in _pages(store, shard, range(shard.num_tokens)):
        if first != end:
            break
        for document in _documents_of(page, first):
            end, num_documents = document.end, num_documents + 1
    if shard.documents is not None and (end, num_documents) != (shard.num_tokens, num_eos):
        told = f"has {num_documents:,} documents of {end:,} tokens, its shard {num_eos:,} of {shard.num_tokens:,}"
        raise ShardCorrupt(f"{store.url(shard.documents.key)}: {told}; {_REBUILD}")


def _pages(store: ObjectStore, shard: ShardRef, tokens: range) -> Iterator[tuple[int, bytes]]:
    """Those that have the documents of these tokens, checked, and the first token of each."""
    if shard.documents is None:
        raise DocumentsUnknown(f"{store.url(shard.key)}: which documents it is made of was not recorded; {_REBUILD}")
    table = shard.documents
    head = _read(store, table.key, 0, table.head_bytes)
    if hashlib.sha256(head).hexdigest() != table.sha256:
        raise _corrupt(store, table.key)
    pages = json.loads(head)["pages"]
    firsts = [first for first, _, _ in pages]
    wanted = range(max(0, bisect.bisect_right(firsts, tokens.start) - 1), bisect.bisect_left(firsts, tokens.stop))
    start = table.head_bytes + sum(size for _, size, _ in pages[: wanted.start])
    data = memoryview(_read(store, table.key, start, sum(pages[number][1] for number in wanted)))
    for number in wanted:
        first, size, digest = pages[number]
        page, data = data[:size], data[size:]
        if checksum(page) != digest:
            raise _corrupt(store, table.key)
        yield first, bytes(page)


def _documents_of(page: bytes, start: int) -> Iterator[ShardDocument]:
    file = ""
    for line in page.splitlines():
        row = json.loads(line)
        if isinstance(row, str):
            file = row
            continue
        num_tokens, number, *own = row
        yield ShardDocument(file=file, number=number, id="".join(own), start=start, end=start + num_tokens)
        start += num_tokens


def _read(store: ObjectStore, key: str, start: int, length: int) -> bytes:
    try:
        return store.get_range(key, start, length)
    except KeyMissing as error:
        raise _corrupt(store, key) from error


def _corrupt(store: ObjectStore, key: str) -> ShardCorrupt:
    return ShardCorrupt(f"{store.url(key)}: is missing, or not what the manifest says; {_REBUILD}")


@dataclass(slots=True)
class TableWriter:
    """Collects the rows of one shard."""

    body: BytesIO = field(default_factory=BytesIO)
    pages: list[list[Any]] = field(default_factory=list)
    """Of those that are full: the first token, where it begins in `body`."""
    room: int = 0
    """Documents that the last page can take."""
    file: str = ""
    """Of the last document."""

    def add(self, batch: EncodedBatch, documents: range, first_token: int) -> None:
        """Some documents of a batch, the first of which begins with `first_token` of the shard."""
        for part in batch.parts:
            begin, stop = max(documents.start, part.documents.start), min(documents.stop, part.documents.stop)
            while begin < stop:
                if not self.room:
                    before = int(batch.lengths[documents.start : begin].sum())
                    self.pages.append([first_token + before, self.body.tell()])
                    self.room, self.file = PAGE_DOCUMENTS, ""
                if part.name != self.file:
                    self.body.write(json.dumps(part.name).encode() + b"\n")
                    self.file = part.name
                end = min(stop, begin + self.room)
                row_start = int(batch.row_ends[begin - 1]) if begin else 0
                self.body.write(batch.rows[row_start : int(batch.row_ends[end - 1])])
                self.room -= end - begin
                begin = end

    def table(self) -> tuple[bytes, int]:
        """The whole object, and the size of its head."""
        body = self.body.getvalue()
        ends = [*(start for _, start in self.pages[1:]), len(body)]
        pages = [[first, end - start, checksum(body[start:end])] for (first, start), end in zip(self.pages, ends, strict=True)]
        head = json.dumps({"pages": pages}, separators=(",", ":")).encode() + b"\n"
        return head + body, len(head)


def table_ref(prefix: str, number: int, table: bytes, head_bytes: int) -> DocumentTable:
    """What the manifest says of a table; `prefix` begins the keys of the dataset."""
    digest = hashlib.sha256(table[:head_bytes]).hexdigest()
    return DocumentTable(key=f"{prefix}documents/{number:05d}-{digest[:16]}.txt", head_bytes=head_bytes, sha256=digest)
