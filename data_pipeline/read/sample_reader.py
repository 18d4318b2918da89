"""From the samples of one dataset to their tokens."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.sample_table import SampleTable, TokenRange
from data_pipeline.read.page_reader import Block, PageReader


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Reads samples of one length. Safe to use from any thread."""

    manifest: DatasetManifest
    table: SampleTable
    pages: PageReader
    block_samples: int
    """Samples that are fetched at once, those after each other in a shard."""

    def row(self, index: int) -> NDArray[np.unsignedinteger]:
        """The T + 1 tokens of a sample. Raises ShardMissing, ShardCorrupt, or what the store raises."""
        return self.read_tokens(self.table.locate(index))

    def wanted(self, index: int) -> tuple[PageReader, Block]:
        """What is fetched for a sample, and who reads it."""
        return self.pages, self.block_of(self.table.locate(index))

    def block_of(self, wanted: TokenRange) -> Block:
        """The block that the tokens of a sample lie in: what holds them and their neighbours, whole pages."""
        length = self.table.seq_len
        num_samples = (self.manifest.shards[wanted.shard].num_tokens - 1) // length
        first = wanted.start // length // self.block_samples * self.block_samples
        last = min(first + self.block_samples, num_samples)
        return Block(wanted.shard, self._pages_of(first * length, last * length + 1))

    def read_tokens(self, wanted: TokenRange) -> NDArray[np.unsignedinteger]:
        """The tokens themselves, as the shard has them, shape (count,)."""
        dtype = file_dtype(self.manifest.dtype)
        pages = self._pages_of(wanted.start, wanted.start + wanted.count)
        data = self.pages.read(self.block_of(wanted), pages)
        offset = wanted.start * dtype.itemsize - pages.start * PAGE_BYTES
        tokens = np.frombuffer(data, dtype=dtype, count=wanted.count, offset=offset)
        self.pages.traffic.add(used=wanted.count * dtype.itemsize)
        if tokens.max() >= self.manifest.vocab_size:
            raise self._beyond(wanted, tokens)
        return tokens

    def _pages_of(self, first_token: int, end_token: int) -> range:
        size = file_dtype(self.manifest.dtype).itemsize
        return range(first_token * size // PAGE_BYTES, -(-end_token * size // PAGE_BYTES))

    def _beyond(self, wanted: TokenRange, tokens: NDArray[np.unsignedinteger]) -> ShardCorrupt:
        at = int((tokens >= self.manifest.vocab_size).argmax())
        url = self.pages.shards.url(self.manifest.shards[wanted.shard])
        remedy = "the manifest's dtype or vocab_size is wrong: `braid data inspect --verify`, or rebuild the dataset"
        return ShardCorrupt(f"{url}: token {tokens[at]} at {wanted.start + at}, but vocab_size={self.manifest.vocab_size}; {remedy}")
