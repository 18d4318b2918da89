"""Fetches the blocks of coming steps into the cache, many at a time, so that batches find them there."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from data_pipeline.read.page_reader import Block, PageReader

NUM_READS = 16
"""Reads in flight."""
NUM_BLOCKS = 64
"""Blocks that are fetched before they are needed."""
NUM_STEPS = 256
"""Steps that are looked at."""


class Ahead:
    """For one consumer, whose steps mostly follow each other. What goes wrong shows when the batch reads the block itself."""

    def __init__(self, *, blocks_of: Callable[[int], Iterable[Block]], pages: PageReader) -> None:
        self._blocks_of, self._pages = blocks_of, pages
        self._executor = ThreadPoolExecutor(NUM_READS, thread_name_prefix="data-block")
        self._fetching: dict[Block, Future[None]] = {}
        self._needed_at: dict[Block, int] = {}
        """The last step, of those looked at, that needs a block."""
        self._looked_to = 0
        """The step before which all were looked at."""

    def look_from(self, step: int) -> None:
        """Has the blocks of this step and of those after it fetched, as far as there is room. Returns at once."""
        if not step <= self._looked_to <= step + NUM_STEPS:
            self._looked_to = step
        self._needed_at = {block: last for block, last in self._needed_at.items() if last >= step}
        self._fetching = {block: fetching for block, fetching in self._fetching.items() if not fetching.done()}
        while self._looked_to < step + NUM_STEPS and len(self._needed_at) < NUM_BLOCKS:
            for block in self._blocks_of(self._looked_to):
                if block not in self._needed_at and block not in self._fetching and not self._pages.has(block):
                    self._fetching[block] = self._executor.submit(self._fetch, block)
                self._needed_at[block] = self._looked_to
            self._looked_to += 1

    def close(self) -> None:
        """Returns when the reads in progress are through."""
        self._executor.shutdown(cancel_futures=True)

    def _fetch(self, block: Block) -> None:
        self._pages.fetch(block)
