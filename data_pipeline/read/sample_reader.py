"""From the samples of one dataset to their tokens."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import RowTable, TokenRange
from data_pipeline.read.page_reader import Block, PageReader

log = logging.getLogger(__name__)


Part = tuple[TokenRange, bytes, int]
"""Some tokens of a row, pages that they lie in, and the number of the first of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Reads samples of one length. Safe to use from any thread."""

    manifest: DatasetManifest
    table: RowTable
    pages: PageReader
    skips_corrupt: bool = False
    """Whether a row that can't be read is told rather than raised."""
    _complained_of: set[int] = field(default_factory=set)
    """Shards."""

    def row(self, index: int) -> NDArray[np.unsignedinteger] | None:
        """The tokens of a sample, up to T + 1; None where they can't be read and that is allowed.

        What is wrong elsewhere in their block is no matter, so that it is the same rows under each layout.
        Raises ShardMissing, ShardCorrupt, or what the store raises.
        """
        try:
            block = self.block_of(index) if self.pages.cache else None
            found = self._read(index, block)
        except (ShardMissing, ShardCorrupt) as error:
            if not self.skips_corrupt:
                raise type(error)(f"{error}, or leave its rows out with data.on_corrupt=skip") from error
            if not (found := self._read_alone(index)):
                return None
        parts = [self._tokens_in(*part) for part in found]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_alone(self, index: int) -> list[Part]:
        """The pages of one row without the rest of its block; none where they can't be read."""
        try:
            return self._read(index, None)
        except (ShardMissing, ShardCorrupt) as error:
            if (shard := self.table.shard_of(index)) not in self._complained_of:
                self._complained_of.add(shard)
                log.warning("%s; rows of this shard that can't be read are skipped", str(error).rpartition("; ")[0])
            return []

    def wanted(self, index: int) -> tuple[PageReader, Block]:
        """What is fetched for a sample, and who reads it."""
        return self.pages, self.block_of(index)

    def block_of(self, index: int) -> Block:
        """The block that the tokens of a sample lie in: what holds them and their neighbours, whole pages."""
        around = self.table.around(index)
        return Block(around.shard, self._pages_with(around))

    def _read(self, index: int, block: Block | None) -> list[Part]:
        """Of a block, or alone. Raises as `row`."""
        found: list[Part] = []
        for together in self._together(self.table.ranges(index)):
            pages = range(self._pages_with(together[0]).start, self._pages_with(together[-1]).stop)
            data = self.pages.read(block, pages) if block else self.pages.read_alone(together[0].shard, pages)
            found += ((wanted, data, pages.start) for wanted in together)
        return found

    def _together(self, ranges: Iterable[TokenRange]) -> Iterator[list[TokenRange]]:
        """Those whose pages follow each other without a gap."""
        found: list[TokenRange] = []
        for one in ranges:
            if found and self._pages_with(one).start > self._pages_with(found[-1]).stop:
                yield found
                found = []
            found.append(one)
        yield found

    def _tokens_in(self, wanted: TokenRange, data: bytes, first_page: int) -> NDArray[np.unsignedinteger]:
        """As the shard has them. Raises ShardCorrupt where no tokens are there."""
        dtype = file_dtype(self.manifest.dtype)
        offset = wanted.start * dtype.itemsize - first_page * PAGE_BYTES
        tokens = np.frombuffer(data, dtype=dtype, count=wanted.count, offset=offset)
        self.pages.traffic.add(used=wanted.count * dtype.itemsize)
        if np.maximum.reduce(tokens) >= self.manifest.vocab_size:
            raise self._beyond(wanted, tokens)
        return tokens

    def _pages_with(self, wanted: TokenRange) -> range:
        size = file_dtype(self.manifest.dtype).itemsize
        return range(wanted.start * size // PAGE_BYTES, -(-(wanted.start + wanted.count) * size // PAGE_BYTES))

    def _beyond(self, wanted: TokenRange, tokens: NDArray[np.unsignedinteger]) -> ShardCorrupt:
        at = int((tokens >= self.manifest.vocab_size).argmax())
        url = self.pages.shards.url(self.manifest.shards[wanted.shard])
        remedy = "the manifest's dtype or vocab_size is wrong: `braid data inspect --verify`, or rebuild the dataset"
        return ShardCorrupt(f"{url}: token {tokens[at]} at {wanted.start + at}, but vocab_size={self.manifest.vocab_size}; {remedy}")
