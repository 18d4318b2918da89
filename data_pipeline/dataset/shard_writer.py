"""Tokenized documents → shards on the object store."""

import hashlib
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import ShardRef, dataset_prefix
from data_pipeline.dataset.pages import page_digests
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.dataset.shard_format import file_dtype, smallest_dtype
from data_pipeline.store.protocol import ObjectStore


@dataclass(slots=True)
class ShardWriter:
    """Collects documents and writes a shard whenever there are enough tokens; a shard ends where a document ends.

    Shards are named by their number and content, so that one which an interrupted build left is not sent again.
    """

    store: ObjectStore
    prefix: str
    """What the keys of the shards begin with."""
    dtype: str
    """The manifest's word for how a token is stored."""
    shard_size_tokens: int
    """A shard is written as soon as this many tokens wait."""
    existing: dict[str, int]
    """Size in bytes of every object that was under `prefix` when the build began, by key."""
    shards: list[ShardRef] = field(default_factory=list)
    """Shards that are complete on the store."""
    page_digests: bytearray = field(default_factory=bytearray)
    """Digests of the pages of all shards so far."""
    pending: BytesIO = field(default_factory=BytesIO)
    """Documents that wait for the next shard, as they will lie in it: it takes no more memory than the shard."""
    num_pending_tokens: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    """Tokens of all documents so far, written or waiting."""

    @property
    def progress(self) -> BuildProgress:
        return BuildProgress(num_documents=self.num_documents, num_tokens=self.num_tokens, num_shards=len(self.shards))

    def add(self, document: NDArray[np.unsignedinteger]) -> None:
        """Takes the tokens of one document, eos included."""
        self.pending.write(document.astype(file_dtype(self.dtype)).data)
        self.num_pending_tokens += len(document)
        self.num_tokens += len(document)
        self.num_documents += 1
        if self.num_pending_tokens >= self.shard_size_tokens:
            self.flush()

    def flush(self) -> None:
        """Writes the documents that wait, if any, as a shard."""
        if not self.num_pending_tokens:
            return
        data, num_tokens = self.pending.getvalue(), self.num_pending_tokens  # the very bytes that were written, not a copy
        self.pending, self.num_pending_tokens = BytesIO(), 0
        digest = hashlib.sha256(data).hexdigest()
        self.page_digests += page_digests(data)
        key = f"{self.prefix}{len(self.shards):05d}-{digest[:16]}.bin"
        if self.existing.get(key) != len(data):
            self.store.put(key, data)
        self.shards.append(ShardRef(key=key, num_tokens=num_tokens, size_bytes=len(data), sha256=digest))


def build_shard_writer(*, store: ObjectStore, name: str, vocab_size: int, shard_size_tokens: int) -> ShardWriter:
    """A writer for the shards of dataset `name`; lists what an earlier build left of them."""
    prefix = f"{dataset_prefix(name)}shards/"
    return ShardWriter(
        store=store,
        prefix=prefix,
        dtype=smallest_dtype(vocab_size),
        shard_size_tokens=shard_size_tokens,
        existing={info.key: info.size_bytes for info in store.list(prefix)},
    )
