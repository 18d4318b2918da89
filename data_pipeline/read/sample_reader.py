"""From samples to their tokens."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import SampleTable, TokenRange
from data_pipeline.order.samples import SampleRef
from data_pipeline.read.batch import TokenBatch, build_batch
from data_pipeline.read.page_reader import Block, PageReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Turns samples into batches. Safe to use from any thread."""

    manifest: DatasetManifest
    table: SampleTable
    pages: PageReader
    block_samples: int
    """Samples that are fetched at once, those after each other in a shard."""
    config: DataConfig
    """It says of which tokens nothing is learnt."""
    _complained_of: set[int] = field(default_factory=set)
    """Shards."""

    def read_batch(self, samples: Sequence[SampleRef]) -> TokenBatch:
        """A batch with one row for each sample. Raises ShardMissing, ShardCorrupt, or what the store raises."""
        rows = [self._row(self.table.locate(sample.index)) for sample in samples]
        blank = np.full(self.table.seq_len + 1, self.manifest.eos_id, dtype=np.int64)
        return build_batch(
            samples,
            [blank if row is None else row for row in rows],
            eos_id=self.manifest.eos_id,
            document_masking=self.config.document_masking,
            repetition_filter=self.config.repetition_filter,
            unread=[number for number, row in enumerate(rows) if row is None],
        )

    def block_of(self, wanted: TokenRange) -> Block:
        """The block that the tokens of a sample lie in: what holds them and their neighbours, whole pages."""
        length = self.table.seq_len
        num_samples = (self.manifest.shards[wanted.shard].num_tokens - 1) // length
        first = wanted.start // length // self.block_samples * self.block_samples
        last = min(first + self.block_samples, num_samples)
        return Block(wanted.shard, self._pages_of(first * length, last * length + 1))

    def read_tokens(self, wanted: TokenRange) -> NDArray[np.int64]:
        """The tokens themselves, shape (count,)."""
        return self._tokens_in(self.pages.read(self.block_of(wanted), self._pages_with(wanted)), wanted)

    def _row(self, wanted: TokenRange) -> NDArray[np.int64] | None:
        """The tokens; None where they can't be read and that is allowed.

        What is wrong elsewhere in their block is no matter, so that it is the same rows under each layout.
        """
        try:
            return self.read_tokens(wanted)
        except (ShardMissing, ShardCorrupt):
            if self.config.on_corrupt == "fail":
                raise
        try:
            data = self.pages.read_alone(wanted.shard, self._pages_with(wanted))
        except (ShardMissing, ShardCorrupt) as error:
            if wanted.shard not in self._complained_of:
                self._complained_of.add(wanted.shard)
                log.warning("%s; rows of this shard that can't be read are skipped", str(error).rpartition("; ")[0])
            return None
        return self._tokens_in(data, wanted)

    def _tokens_in(self, data: bytes, wanted: TokenRange) -> NDArray[np.int64]:
        """Given the pages that they lie in. Raises ShardCorrupt where no tokens are there."""
        dtype = file_dtype(self.manifest.dtype)
        pages = self._pages_with(wanted)
        offset = wanted.start * dtype.itemsize - pages.start * PAGE_BYTES
        tokens = np.frombuffer(data, dtype=dtype, count=wanted.count, offset=offset).astype(np.int64)
        self.pages.traffic.add(used=wanted.count * dtype.itemsize)
        if tokens.max() >= self.manifest.vocab_size:
            raise self._beyond(wanted, tokens)
        return tokens

    def _pages_with(self, wanted: TokenRange) -> range:
        return self._pages_of(wanted.start, wanted.start + wanted.count)

    def _pages_of(self, first_token: int, end_token: int) -> range:
        size = file_dtype(self.manifest.dtype).itemsize
        return range(first_token * size // PAGE_BYTES, -(-end_token * size // PAGE_BYTES))

    def _beyond(self, wanted: TokenRange, tokens: NDArray[np.int64]) -> ShardCorrupt:
        at = int((tokens >= self.manifest.vocab_size).argmax())
        url = self.pages.store.url(self.manifest.shards[wanted.shard].key)
        remedy = "the manifest's dtype or vocab_size is wrong: `braid data inspect --verify`, or rebuild the dataset"
        return ShardCorrupt(f"{url}: token {tokens[at]} at {wanted.start + at}, but vocab_size={self.manifest.vocab_size}; {remedy}")
