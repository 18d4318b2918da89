"""From the samples of one dataset to their tokens."""

import logging
from collections.abc import Iterable, Sequence
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


Part = tuple[TokenRange, NDArray[np.unsignedinteger]]
"""Where some tokens of a row are, and they, as the shard has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Reads samples of one length. Safe to use from any thread."""

    manifest: DatasetManifest
    table: RowTable
    pages: PageReader
    _complained_of: set[int] = field(default_factory=set)
    """Shards."""

    def row(self, index: int) -> NDArray[np.unsignedinteger] | None:
        """The tokens of a sample, up to T + 1; None where they can't be read and `pages` skips such rows.

        What is wrong elsewhere in their block is no matter, so that it is the same rows under each layout.
        Raises ShardMissing, ShardCorrupt, or what the store raises.
        """
        try:
            found = self._read_held(index) if self.pages.held else self._read(index, self.block_of(index) if self.pages.cache else None)
        except (ShardMissing, ShardCorrupt) as error:
            if not self.pages.skips_corrupt:
                raise type(error)(f"{error}, or leave its rows out with data.on_corrupt=skip") from error
            if not (found := self._read_alone(index)):
                return None
        tokens = found[0][1] if len(found) == 1 else np.concatenate([part for _, part in found])
        self.pages.traffic.add(used=tokens.nbytes)
        if np.maximum.reduce(tokens) >= self.manifest.vocab_size:
            raise self._beyond(found)
        return tokens

    def _read_alone(self, index: int) -> list[Part]:
        """The pages of one row without the rest of its block, of which the digests may be lost; none where they can't be read."""
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

    def _read_held(self, index: int) -> list[Part]:
        """Of its block, which was checked when it came into memory."""
        block, dtype = self.block_of(index), file_dtype(self.manifest.dtype)
        data, first, ranges = self.pages.block(block), block.pages.start * PAGE_BYTES, self.table.ranges(index)
        if self.pages.skips_corrupt:
            for one in ranges:
                self.pages.refuse_damaged(block.shard, self._pages_with(one))
        return [(one, np.frombuffer(data, dtype, count=one.length, offset=one.start * dtype.itemsize - first)) for one in ranges]

    def _read(self, index: int, block: Block | None) -> list[Part]:
        """Of a block, or alone. Raises as `row`."""
        found: list[Part] = []
        dtype = file_dtype(self.manifest.dtype)
        for pages, ranges in self._runs(self.table.ranges(index)):
            data = self.pages.read(block, pages) if block else self.pages.read_alone(ranges[0].shard, pages)
            for one in ranges:
                offset = one.start * dtype.itemsize - pages.start * PAGE_BYTES
                found.append((one, np.frombuffer(data, dtype, count=one.length, offset=offset)))
        return found

    def _runs(self, ranges: Sequence[TokenRange]) -> Iterable[tuple[range, Sequence[TokenRange]]]:
        """Pages that follow each other, which are read at once, and the tokens that lie in them."""
        if len(ranges) == 1:
            return [(self._pages_with(ranges[0]), ranges)]
        runs: list[tuple[range, list[TokenRange]]] = []
        for one in ranges:
            pages = self._pages_with(one)
            if runs and pages.start <= runs[-1][0].stop:
                before, its = runs[-1]
                runs[-1] = range(before.start, pages.stop), [*its, one]
            else:
                runs.append((pages, [one]))
        return runs

    def _pages_with(self, wanted: TokenRange) -> range:
        size = file_dtype(self.manifest.dtype).itemsize
        return range(wanted.start * size // PAGE_BYTES, -(-(wanted.start + wanted.length) * size // PAGE_BYTES))

    def _beyond(self, parts: Iterable[Part]) -> ShardCorrupt:
        wanted, tokens = next(part for part in parts if part[1].max() >= self.manifest.vocab_size)
        at = int((tokens >= self.manifest.vocab_size).argmax())
        url = self.pages.shards.url(self.manifest.shards[wanted.shard])
        remedy = "the manifest's dtype or vocab_size is wrong: `braid data inspect --verify`, or rebuild the dataset"
        return ShardCorrupt(f"{url}: token {tokens[at]} at {wanted.start + at}, but vocab_size={self.manifest.vocab_size}; {remedy}")
