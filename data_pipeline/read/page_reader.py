"""Pages of a dataset's shards, each checked before its use, from the cache or from the store."""

import logging
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES, first_wrong, page_digests
from data_pipeline.dataset.shards import ShardStore, remedy
from data_pipeline.errors import ShardCorrupt
from data_pipeline.read.block_cache import BlockCache
from data_pipeline.read.fetch import cut_short
from data_pipeline.read.page_index import PageIndex, Recent

log = logging.getLogger(__name__)


class Block(NamedTuple):
    """What is fetched and kept at once: pages of one shard."""

    shard: int
    pages: range


@dataclass(slots=True)
class Traffic:
    """What was read so far, in bytes."""

    fetched: int = 0
    """From the store."""
    used: int = 0
    """Of tokens, by samples."""
    _lock: Lock = field(default_factory=Lock)

    def add(self, *, fetched: int = 0, used: int = 0) -> None:
        with self._lock:
            self.fetched += fetched
            self.used += used


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PageReader:
    """Reads one dataset. Safe to use from any thread."""

    manifest: DatasetManifest
    shards: ShardStore
    index: PageIndex
    cache: BlockCache | None
    """None where pages are read from the store as they are wanted."""
    num_held: int = 0
    """Blocks that are held in memory, those that were used last."""
    traffic: Traffic = field(default_factory=Traffic)
    held: Recent[Block] | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "held", Recent(make=self.fetch, size=self.num_held) if self.num_held else None)

    def block(self, block: Block) -> bytes:
        """A whole block, held in memory from now on where that is allowed. Raises as `read`."""
        return self.held.get(block) if self.held else self.fetch(block)

    def read(self, block: Block, pages: range) -> bytes:
        """Some pages of a block: from the cache, into which the block is fetched where it is not there; each is what the dataset has.

        Raises ShardMissing, ShardCorrupt, or what the store raises.
        """
        if self.cache is None:
            return self.read_alone(block.shard, pages)
        name, start, size = self._name(block), (pages.start - block.pages.start) * PAGE_BYTES, self._size(block.shard, pages)
        data = self.cache.read(name, start, size)
        if data is not None:
            if first_wrong(data, self.index.digests(block.shard, pages)) is None:
                return data
            log.warning("%s: this cached block is damaged, it is fetched again", self.cache.directory / name)
            self.cache.drop(name)
        return self.fetch(block)[start : start + size]

    def fetch(self, block: Block) -> bytes:
        """The whole block, which is in the cache from now on."""
        if self.cache is None:
            return self.read_alone(*block)
        for _ in range(2):
            data, is_new = self.cache.fetched(self._name(block), lambda: self.read_alone(*block))
            if is_new or (len(data) == self._size(*block) and first_wrong(data, self.index.digests(*block)) is None):
                return data
            self.cache.drop(self._name(block))  # a disk has spoilt what was kept
        return self.read_alone(*block)

    def read_alone(self, shard: int, pages: range) -> bytes:
        """Some pages from the store, whatever the rest of their block is like. Raises as `read`.

        Twice, where the first is not what the dataset has: a network may be to blame, or the digests.
        """
        digests = self.index.digests(shard, pages)  # a shard of which there are none need not be asked for
        data = self._got(shard, pages)
        if first_wrong(data, digests) is not None:
            log.warning("%s: what came is not what the dataset has, it is fetched again", self.shards.url(self.manifest.shards[shard]))
            self.index.forget(shard)
            data = self._got(shard, pages)
            if (wrong := first_wrong(data, self.index.digests(shard, pages))) is not None:
                raise self._corrupt(shard, pages[wrong], data[wrong * PAGE_BYTES : (wrong + 1) * PAGE_BYTES])
        return data

    def has(self, block: Block) -> bool:
        """Whether it need not be fetched."""
        is_held = self.held is not None and block in self.held
        return is_held or (self.cache is not None and self.cache.has(self._name(block), self._size(*block)))

    def _got(self, shard: int, pages: range) -> bytes:
        ref, start, wanted = self.manifest.shards[shard], pages.start * PAGE_BYTES, self._size(shard, pages)
        data = self.shards.read(ref, start, wanted)
        self.traffic.add(fetched=len(data))
        if len(data) != wanted:
            raise cut_short(ref, self.shards, start + len(data))
        return data

    def _corrupt(self, shard: int, page: int, data: bytes) -> ShardCorrupt:
        ref = self.manifest.shards[shard]
        start = ref.offset_bytes + page * PAGE_BYTES
        expected = self.index.digests(shard, range(page, page + 1)).hex()
        return ShardCorrupt(
            f"{self.shards.url(ref)}: bytes {start:,} to {start + PAGE_BYTES:,} have the digest {page_digests(data).hex()}, "
            f"the dataset says {expected}; {remedy(ref)}"
        )

    def _size(self, shard: int, pages: range) -> int:
        return min(pages.stop * PAGE_BYTES, self.manifest.shards[shard].size_bytes) - pages.start * PAGE_BYTES

    def _name(self, block: Block) -> str:
        return f"{self.manifest.shards[block.shard].sha256[:32]}-{block.pages.start}-{block.pages.stop}"
