"""Pages of a dataset's shards, each checked before its use, from the cache or from the store."""

import logging
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES, page_digests, wrong_pages
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
    skips_corrupt: bool = False
    """Whether the other pages of a block are read where some are damaged. Which those are is remembered: they are not asked for again.

    Where that ends the run, they are asked for whenever they are needed: what was wrong ahead of its time may be right by then.
    """
    traffic: Traffic = field(default_factory=Traffic)
    held: Recent[Block] | None = field(init=False)
    _damaged: dict[tuple[int, int], str] = field(default_factory=dict)
    """What is wrong, by shard and page."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "held", Recent(make=self.fetch, size=self.num_held) if self.num_held else None)

    def block(self, block: Block) -> bytes:
        """As `fetch`; held in memory from now on where that is allowed."""
        return self.held.get(block) if self.held else self.fetch(block)

    def read(self, block: Block, pages: range) -> bytes:
        """Some pages of a block: from the cache, into which the block is fetched where it is not there; each is what the dataset has.

        Raises ShardMissing, ShardCorrupt, or what the store raises.
        """
        if self.cache is None:
            return self.read_alone(block.shard, pages)
        self.refuse_damaged(block.shard, pages)
        name, start, size = self._name(block), (pages.start - block.pages.start) * PAGE_BYTES, self._size(block.shard, pages)
        data = self.cache.read(name, start, size)
        if data is not None:
            if not self._wrong(block.shard, pages, data):
                return data
            log.warning("%s: this cached block is damaged, it is fetched again", self.cache.directory / name)
            self.cache.drop(name)
        data = self.fetch(block)
        self.refuse_damaged(block.shard, pages)
        return data[start : start + size]

    def fetch(self, block: Block) -> bytes:
        """The whole block, which is in the cache from now on. Raises as `read`, or `refuse_damaged` knows its bad pages."""
        if self.cache is None:
            return self._checked(*block)
        for _ in range(2):
            data, is_new = self.cache.fetched(self._name(block), lambda: self._checked(*block))
            if is_new or (len(data) == self._size(*block) and not self._wrong(*block, data)):
                return data
            self.cache.drop(self._name(block))  # a disk has spoilt what was kept, or it came so and another process skips it
        return self._checked(*block)

    def read_alone(self, shard: int, pages: range) -> bytes:
        """Some pages from the store, whatever the rest of their block is like. Raises as `read`."""
        self.refuse_damaged(shard, pages)
        data = self._checked(shard, pages)
        self.refuse_damaged(shard, pages)
        return data

    def refuse_damaged(self, shard: int, pages: range) -> None:
        """Raises ShardCorrupt where one of these pages is known to be damaged."""
        if self._damaged and (known := next((page for page in pages if (shard, page) in self._damaged), None)) is not None:
            raise ShardCorrupt(self._damaged[shard, known])

    def _checked(self, shard: int, pages: range) -> bytes:
        """Some pages from the store. Raises as `read`, or remembers which are damaged.

        What is not as the dataset has it is fetched twice: a network may be to blame, or the digests.
        """
        self.index.digests(shard, pages)  # a shard of which there are none need not be asked for
        data = self._got(shard, pages)
        if wrong := self._wrong(shard, pages, data):
            log.warning("%s: what came is not what the dataset has, it is fetched again", self.shards.url(self.manifest.shards[shard]))
            self.index.forget(shard)
            before, behind = wrong[0] * PAGE_BYTES, (wrong[-1] + 1) * PAGE_BYTES
            data = data[:before] + self._got(shard, pages[wrong[0] : wrong[-1] + 1]) + data[behind:]
        for page in self._wrong(shard, pages, data) if wrong else ():
            error = self._corrupt(shard, pages, page, data)
            if not self.skips_corrupt:
                raise error
            self._damaged[shard, pages[page]] = str(error)
        return data.ljust(self._size(shard, pages), b"\0")

    def _wrong(self, shard: int, pages: range, data: bytes) -> list[int]:
        """Which of `pages`, counted from the first, are not as the dataset has them, but for those that are known."""
        return [page for page in wrong_pages(data, self.index.digests(shard, pages)) if (shard, pages[page]) not in self._damaged]

    def has(self, block: Block) -> bool:
        """Whether it need not be fetched."""
        is_held = self.held is not None and block in self.held
        return is_held or (self.cache is not None and self.cache.has(self._name(block), self._size(*block)))

    def _got(self, shard: int, pages: range) -> bytes:
        """What the store has of some pages: less, where the shard is cut short."""
        data = self.shards.read(self.manifest.shards[shard], pages.start * PAGE_BYTES, self._size(shard, pages))
        self.traffic.add(fetched=len(data))
        return data

    def _corrupt(self, shard: int, pages: range, wrong: int, data: bytes) -> ShardCorrupt:
        ref, its_data = self.manifest.shards[shard], data[wrong * PAGE_BYTES : (wrong + 1) * PAGE_BYTES]
        if len(its_data) < self._size(shard, pages[wrong : wrong + 1]):
            return cut_short(ref, self.shards, pages.start * PAGE_BYTES + len(data))
        start = ref.offset_bytes + pages[wrong] * PAGE_BYTES
        expected = self.index.digests(shard, pages[wrong : wrong + 1]).hex()
        return ShardCorrupt(
            f"{self.shards.url(ref)}: bytes {start:,} to {start + PAGE_BYTES:,} have the digest {page_digests(its_data).hex()}, "
            f"the dataset says {expected}{self._which_is_wrong(shard)}; {remedy(ref)}"
        )

    def _which_is_wrong(self, shard: int) -> str:
        url = self.index.url(shard)
        return url and f" in {url} (`braid data inspect {self.manifest.name} --verify` tells which of the two is damaged)"

    def _size(self, shard: int, pages: range) -> int:
        return min(pages.stop * PAGE_BYTES, self.manifest.shards[shard].size_bytes) - pages.start * PAGE_BYTES

    def _name(self, block: Block) -> str:
        return f"{self.manifest.shards[block.shard].sha256[:32]}-{block.pages.start}-{block.pages.stop}"
