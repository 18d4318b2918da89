"""Where the tokens of packed rows are: the tables that `dataset/packing.py` describes, read by the window and checked. No torch."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.dataset.packing import Head, Packing, Packings, head_from_bytes, pieces_of_row, remedy
from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.blocks import BlockTable
from data_pipeline.order.sample_table import RowTable, SampleTable, TokenRange
from data_pipeline.read.page_index import Recent
from data_pipeline.store.protocol import KeyMissing, ObjectStore

log = logging.getLogger(__name__)
_NUM_HEADS, _NUM_WINDOWS = 2048, 1024
"""Kept in memory: for 6 T tokens in 12,000 files, of 1,000 tokens a document, 32 and 8 MB."""


class PackedTable:
    """Finds the tokens of the packed rows of one dataset. Safe to use from any thread."""

    def __init__(self, name: str, packing: Packing, store: ObjectStore) -> None:
        """`name` is the dataset's."""
        self.packing = packing
        self._name, self._store = name, store
        self._rows = SampleTable(seq_len=packing.seq_len, ends=tuple(accumulate(shard.num_rows for shard in packing.shards)))
        self._heads: Recent[int] = Recent(make=self._read_head, size=_NUM_HEADS)
        self._windows: Recent[tuple[int, int]] = Recent(make=self._read_window, size=_NUM_WINDOWS)
        self._lost: dict[tuple[str, int], str] = {}
        """Why what begins at a byte of an object can't be read, so that not every row of it asks again."""

    @property
    def seq_len(self) -> int:
        """T: input tokens of a row."""
        return self.packing.seq_len

    @property
    def num_samples(self) -> int:
        """Rows of the whole dataset."""
        return self._rows.num_samples

    def shard_of(self, index: int) -> int:
        return self._place(index)[0]

    def ranges(self, index: int) -> list[TokenRange]:
        """The tokens of a row, up to T + 1, in the order of their shard. Raises ShardCorrupt, or what the store raises."""
        shard, window, row = self._place(index)
        size, num_rows = self.packing.window_rows, self.packing.shards[shard].num_rows
        pieces = pieces_of_row(
            self._windows.get((shard, window)),
            row,
            begin=self._head(shard).tokens(window).start,
            num_rows=min(size, num_rows - window * size),
        )
        return [TokenRange(shard=shard, start=start, length=count) for start, count in pieces]

    def around(self, index: int) -> TokenRange:
        """The tokens of all rows of its window. Raises as `ranges`."""
        shard, window, _ = self._place(index)
        tokens = self._head(shard).tokens(window)
        return TokenRange(shard=shard, start=tokens.start, length=len(tokens))

    def _place(self, index: int) -> tuple[int, int, int]:
        """(shard, window, row in it)."""
        shard, row = self._rows.place(index)
        return shard, *divmod(row, self.packing.window_rows)

    def _head(self, shard: int) -> Head:
        return head_from_bytes(self._heads.get(shard))

    def _read_head(self, shard: int) -> bytes:
        ref = self.packing.shards[shard]
        size = ref.head_bytes(self.packing.window_rows)
        return self._read(ref.key, range(size), lambda data: hashlib.sha256(data).hexdigest() == ref.sha256)

    def _read_window(self, which: tuple[int, int]) -> bytes:
        shard, window = which
        head = self._head(shard)
        return self._read(self.packing.shards[shard].key, head.bytes_of(window), lambda data: head.is_right(window, data))

    def _read(self, key: str, where: range, is_right: Callable[[bytes], bool]) -> bytes:
        """Raises ShardCorrupt, for good, or what the store raises."""
        place = (key, where.start)
        if place not in self._lost:
            try:
                return self._got(key, where, is_right)
            except ShardCorrupt as error:
                self._lost[place] = str(error)
        raise ShardCorrupt(self._lost[place])

    def _got(self, key: str, where: range, is_right: Callable[[bytes], bool]) -> bytes:
        """Twice, where the first is not what was packed: a network may be to blame."""
        url, again = self._store.url(key), remedy(self._name, self.seq_len)
        what = f"{url}: bytes {where.start:,} to {where.stop:,}"
        try:
            for attempt in range(2):
                if is_right(data := self._store.get_range(key, where.start, len(where))):
                    if attempt:
                        log.warning("%s came otherwise than they were packed, and right when they were read again", what)
                    return data
        except KeyMissing as error:
            raise ShardCorrupt(f"{url}: is missing; pack the dataset again with {again}") from error
        raise ShardCorrupt(f"{what} are not what was packed; pack the dataset again with {again}")


def open_table(manifest: DatasetManifest, packings: Packings, store: ObjectStore, *, samples: BlockTable) -> RowTable:
    """Where the tokens of `samples` are: as they are packed, or cut from shards."""
    if packing := packings.get((manifest.name, samples.seq_len)):
        return PackedTable(manifest.name, packing, store)
    return replace(build_sample_table(manifest, samples.seq_len), block_samples=samples.block_samples)
