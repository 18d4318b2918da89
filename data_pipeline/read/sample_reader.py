"""From the samples of one dataset to their tokens."""

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import SampleTable, TokenRange
from data_pipeline.read.page_reader import Block, PageReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Reads samples of one length. Safe to use from any thread."""

    manifest: DatasetManifest
    table: SampleTable
    pages: PageReader
    block_samples: int
    """Samples that are fetched at once, those after each other in a shard."""
    skips_corrupt: bool = False
    """Whether a row that can't be read is told rather than raised."""
    _complained_of: set[int] = field(default_factory=set)
    """Shards."""

    def row(self, index: int) -> NDArray[np.unsignedinteger] | None:
        """The T + 1 tokens of a sample; None where they can't be read and that is allowed.

        What is wrong elsewhere in their block is no matter, so that it is the same rows under each layout.
        Raises ShardMissing, ShardCorrupt, or what the store raises.
        """
        wanted = self.table.locate(index)
        pages = self._pages_with(wanted)
        try:
            data = self._read(wanted, pages)
        except (ShardMissing, ShardCorrupt) as error:
            if not self.skips_corrupt:
                raise type(error)(f"{error}, or leave its rows out with data.on_corrupt=skip") from error
            alone = self._read_alone(wanted, pages)
            return None if alone is None else self._tokens_in(alone, pages, wanted)
        return self._tokens_in(data, pages, wanted)

    def _read(self, wanted: TokenRange, pages: range) -> bytes:
        if self.pages.cache is None:
            return self.pages.read_alone(wanted.shard, pages)
        return self.pages.read(self.block_of(wanted), pages)

    def _read_alone(self, wanted: TokenRange, pages: range) -> bytes | None:
        """The pages of one row without the rest of its block; None where they can't be read."""
        try:
            return self.pages.read_alone(wanted.shard, pages)
        except (ShardMissing, ShardCorrupt) as error:
            if wanted.shard not in self._complained_of:
                self._complained_of.add(wanted.shard)
                log.warning("%s; rows of this shard that can't be read are skipped", str(error).rpartition("; ")[0])
            return None

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
        pages = self._pages_with(wanted)
        return self._tokens_in(self._read(wanted, pages), pages, wanted)

    def _tokens_in(self, data: bytes, pages: range, wanted: TokenRange) -> NDArray[np.unsignedinteger]:
        """Given the pages that they lie in. Raises ShardCorrupt where no tokens are there."""
        dtype = file_dtype(self.manifest.dtype)
        offset = wanted.start * dtype.itemsize - pages.start * PAGE_BYTES
        tokens = np.frombuffer(data, dtype=dtype, count=wanted.count, offset=offset)
        self.pages.traffic.add(used=wanted.count * dtype.itemsize)
        if np.maximum.reduce(tokens) >= self.manifest.vocab_size:
            raise self._beyond(wanted, tokens)
        return tokens

    def _pages_with(self, wanted: TokenRange) -> range:
        return self._pages_of(wanted.start, wanted.start + wanted.count)

    def _pages_of(self, first_token: int, end_token: int) -> range:
        size = file_dtype(self.manifest.dtype).itemsize
        return range(first_token * size // PAGE_BYTES, -(-end_token * size // PAGE_BYTES))

    def _beyond(self, wanted: TokenRange, tokens: NDArray[np.unsignedinteger]) -> ShardCorrupt:
        at = int((tokens >= self.manifest.vocab_size).argmax())
        url = self.pages.shards.url(self.manifest.shards[wanted.shard])
        remedy = "the manifest's dtype or vocab_size is wrong: `braid data inspect --verify`, or rebuild the dataset"
        return ShardCorrupt(f"{url}: token {tokens[at]} at {wanted.start + at}, but vocab_size={self.manifest.vocab_size}; {remedy}")
