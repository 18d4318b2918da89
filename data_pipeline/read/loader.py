"""Feeds one rank: its rows of a step as tensors. The step is the only state, so resuming is asking for another step."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.dataset.plan import plan_of, planned_samples
from data_pipeline.order.plan import Plan
from data_pipeline.read.ahead import Ahead
from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.block_cache import open_cache
from data_pipeline.read.page_index import open_index
from data_pipeline.read.page_reader import Block, PageReader, Traffic
from data_pipeline.read.sample_reader import SampleReader
from data_pipeline.store.protocol import ObjectStore

NUM_PREFETCHED_STEPS = 2
"""Steps that are read ahead of the one that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Reads batches ahead on one thread, and blocks further ahead on others. For one consumer; close it when done."""

    reader: SampleReader
    plan: Plan
    """Which samples a step has."""
    rank_rows: range
    """Rows of the global batch that this rank trains on."""
    executor: ThreadPoolExecutor
    """Reads batches."""
    ahead: Ahead | None
    """Fetches blocks into the cache; None where there is none."""
    pending: dict[int, Future[TokenBatch]] = field(default_factory=dict)
    """Batches that are being read ahead, by step."""

    @property
    def num_samples(self) -> int:
        """Samples of the dataset: the length of an epoch."""
        return self.reader.table.num_samples

    @property
    def traffic(self) -> Traffic:
        return self.reader.pages.traffic

    def batch(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1). What went wrong while reading ahead is raised at the step that needs it."""
        wanted = range(step, step + 1 + NUM_PREFETCHED_STEPS)
        if self.ahead is not None:
            self.ahead.look_from(step)
        for other in self.pending.keys() - set(wanted):
            self.pending.pop(other).cancel()
        for ahead in wanted:
            if ahead not in self.pending:
                self.pending[ahead] = self.executor.submit(self.read, ahead)
        return self.pending.pop(step).result()

    def read(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1), read on the calling thread and without reading ahead."""
        return self.reader.read_batch(planned_samples(self.plan, step, self.rank_rows))

    def close(self) -> None:
        """Stops reading ahead, after the read in progress. May be called twice."""
        if self.ahead is not None:
            self.ahead.close()
        self.executor.shutdown(cancel_futures=True)


def build_loader(
    *,
    manifest: DatasetManifest,
    config: DataConfig,
    store: ObjectStore,
    cache_dir: Path,
    batch_rows: int,
    rank_rows: range,
    keeps_blocks: bool = False,
) -> Loader:
    """A loader for one rank: `batch_rows` are the rows of the global batch, `rank_rows` those of this rank.

    With `keeps_blocks`, for stores that are not on a disk of this machine, what comes from the store is kept in `cache_dir`, if it will be
    read again before it has to go: not where a whole epoch of more than the cache lies in between.
    Raises DatasetTooSmall, CacheUnusable, or ValueError where `rank_rows` are not rows of the batch.
    """
    if not rank_rows or min(rank_rows) < 0 or max(rank_rows) >= batch_rows:
        raise ValueError(f"rank_rows={rank_rows}: not rows of a batch of {batch_rows}")
    plan, table = plan_of(manifest, config, batch_rows=batch_rows), build_sample_table(manifest, config.seq_len)
    is_near_itself = config.shuffle == "blocks" or 2 * manifest.size_bytes <= config.cache_limit
    cache = open_cache(cache_dir, limit_bytes=config.cache_limit) if keeps_blocks and is_near_itself else None
    pages = PageReader(manifest=manifest, store=store, index=open_index(manifest, store, cache_dir), cache=cache)
    reader = SampleReader(
        manifest=manifest,
        table=table,
        pages=pages,
        block_samples=plan.table(0, config.seq_len).block_samples,
        config=config,
    )

    def blocks_of(step: int) -> Iterator[Block]:
        return (reader.block_of(table.locate(sample.index)) for sample in planned_samples(plan, step, rank_rows))

    return Loader(
        reader=reader,
        plan=plan,
        rank_rows=rank_rows,
        executor=ThreadPoolExecutor(1, thread_name_prefix="data-prefetch"),
        ahead=Ahead(blocks_of=blocks_of, pages=pages) if cache is not None else None,
    )
