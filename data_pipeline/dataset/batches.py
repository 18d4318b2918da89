"""A batch of documents → its tokens: what any process does alone, the same wherever it runs."""

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.encoder import Encoder, Lengths, build_encoder
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.sources.corpus import Batch, Part
from data_pipeline.sources.protocol import Document, Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How text becomes tokens of a dataset."""

    tokenizer: str = field(repr=False)
    """Its JSON."""
    eos_id: int
    dtype: str
    """The manifest's word for how a token is stored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPart:
    """Where documents of an encoded batch come from: those of one chunk."""

    file: int
    """Number of its file in the corpus."""
    name: str
    """Of the file."""
    place: Place
    """Of the chunk."""
    skipped: int
    """Documents of the chunk that the batch does not have."""
    documents: range
    """Those of the batch that are the chunk's."""
    read_bytes: int
    """Of all files of the corpus, up to the end of the chunk."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedBatch:
    """The tokens of a batch as they are to lie in shards; N documents, each ended by eos."""

    tokens: NDArray[np.unsignedinteger] = field(repr=False)
    lengths: Lengths
    """Shape (N,): tokens of each document."""
    text_bytes: Lengths
    """Shape (N,): in UTF-8."""
    unknown: Lengths
    """Shape (N,): tokens that stand for text which the tokenizer doesn't know."""
    rows: bytes = field(repr=False)
    """Of the table of documents (`documents.py`)."""
    row_ends: Lengths
    """Shape (N,)."""
    parts: tuple[EncodedPart, ...]


Encode = Callable[[Encoding, Iterator[Batch]], Generator[EncodedBatch, None, None]]
"""Encodes batches somewhere, and gives them in their order. Where one can't be read or encoded, what comes before it comes first."""


@dataclass(frozen=True, slots=True)
class BatchEncoder:
    """Encodes batches in this process."""

    encoder: Encoder
    eos_id: int
    dtype: np.dtype

    def encode(self, batch: Batch) -> EncodedBatch:
        """Raises CorpusInvalid, TokenizerInvalid."""
        documents: list[Document] = []
        parts: list[EncodedPart] = []
        for part in batch:
            first = len(documents)
            documents += part.documents()
            parts.append(_encoded_part(part, range(first, len(documents))))
        tokens, lengths = self.encoder.encode(document.text for document in documents)
        ends = np.cumsum(lengths)
        with_eos = lengths + 1
        rows = [_row(document, int(length)) for document, length in zip(documents, with_eos, strict=True)]
        return EncodedBatch(
            tokens=np.insert(tokens, ends, self.eos_id).astype(self.dtype),
            lengths=with_eos,
            text_bytes=np.array([len(document.text.encode()) for document in documents], dtype=np.int64),
            unknown=self._unknown(tokens, ends),
            rows=b"".join(rows),
            row_ends=np.cumsum([len(row) for row in rows], dtype=np.int64),
            parts=tuple(parts),
        )

    def _unknown(self, tokens: NDArray[np.uint32], ends: Lengths) -> Lengths:
        places = np.flatnonzero(tokens == self.encoder.unknown)
        return np.diff(np.searchsorted(places, ends), prepend=0)


def build_batch_encoder(encoding: Encoding) -> BatchEncoder:
    """Raises TokenizerInvalid."""
    tokenizer = tokenizer_from_json(encoding.tokenizer.encode(), where="the tokenizer")
    encoder = build_encoder(tokenizer, encoding.eos_id)
    return BatchEncoder(encoder=encoder, eos_id=encoding.eos_id, dtype=file_dtype(encoding.dtype))


def encode_here(encoding: Encoding, batches: Iterator[Batch]) -> Generator[EncodedBatch, None, None]:
    """In this process, on as many threads as the library of tokenizers starts."""
    yield from map(build_batch_encoder(encoding).encode, batches)


def _encoded_part(part: Part, documents: range) -> EncodedPart:
    return EncodedPart(
        file=part.file, name=part.name, place=part.chunk.place, skipped=part.skip, documents=documents, read_bytes=part.read_bytes
    )


def _row(document: Document, num_tokens: int) -> bytes:
    own = [document.id] if document.id else []
    return json.dumps([num_tokens, document.number, *own], separators=(",", ":")).encode() + b"\n"
