"""Fetches the blocks of coming steps, many at a time, so that batches find them in the cache or in memory."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from data_pipeline.order.blocks import BLOCK_TOKENS
from data_pipeline.read.page_reader import Block, PageReader

Wanted = tuple[PageReader, Block]
"""A block, and who reads it."""

NUM_READS = 16
"""Reads in flight."""
NUM_BLOCKS = 64
"""Blocks that are fetched before they are needed, where the cache has room for them."""
NUM_STEPS = 256
"""Steps that are looked at."""


def blocks_ahead(limit_bytes: int) -> int:
    """For a cache of so many bytes, which eight processes share: what one fetches ahead must not push out what another needs before."""
    return max(1, min(NUM_BLOCKS, limit_bytes // 8 // (4 * BLOCK_TOKENS)))


class Ahead:
    """For one consumer, whose steps mostly follow each other. What goes wrong shows when the batch reads the block itself."""

    def __init__(self, *, wanted_at: Callable[[int], Iterable[Wanted]], num_blocks: int = NUM_BLOCKS) -> None:
        """`wanted_at` tells what a step reads: nothing behind the end of the data. Steps that need `num_blocks` blocks are enough."""
        self._wanted_at = wanted_at
        self._num_blocks = num_blocks
        self._executor = ThreadPoolExecutor(NUM_READS, thread_name_prefix="data-block")
        self._fetching: dict[Wanted, Future[bytes]] = {}
        self._needed_at: dict[Wanted, int] = {}
        """The last step, of those looked at, that needs a block."""
        self._looked_to = 0
        """The step before which all were looked at."""

    def look_from(self, step: int) -> None:
        """Has the blocks of this step and of those after it fetched, as far as there is room. Returns at once."""
        if not step <= self._looked_to <= step + NUM_STEPS:
            self._looked_to = step
        self._needed_at = {wanted: last for wanted, last in self._needed_at.items() if last >= step}
        self._fetching = {wanted: fetching for wanted, fetching in self._fetching.items() if not fetching.done()}
        while self._looked_to < step + NUM_STEPS and len(self._needed_at) < self._num_blocks:
            looked_at = self._looked_to
            self._looked_to += 1  # whatever this step raises, the next call goes on behind it
            for wanted in self._wanted_at(looked_at):
                pages, block = wanted
                if wanted not in self._needed_at and wanted not in self._fetching and not pages.has(block):
                    self._fetching[wanted] = self._executor.submit(pages.block, block)
                self._needed_at[wanted] = looked_at

    def close(self) -> None:
        """Returns when the reads in progress are through."""
        self._executor.shutdown(cancel_futures=True)
