"""Feeds one rank: its rows of a step as tensors. The step is the only state, so resuming is asking for another step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.packing import Packings, load_packings
from data_pipeline.dataset.plan import plan_of, planned_samples
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.shards import Elsewhere, ShardStore, nowhere
from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.blocks import BLOCK_TOKENS
from data_pipeline.order.plan import Plan
from data_pipeline.order.samples import rows_of_rank
from data_pipeline.read.ahead import NUM_BLOCKS, Ahead, Wanted, blocks_ahead
from data_pipeline.read.batch import TokenBatch, build_batch
from data_pipeline.read.block_cache import BlockCache, open_cache
from data_pipeline.read.buffers import Buffers
from data_pipeline.read.packed_table import open_table
from data_pipeline.read.page_index import open_index
from data_pipeline.read.page_reader import PageReader, Traffic
from data_pipeline.read.sample_reader import SampleReader
from data_pipeline.store.protocol import ObjectStore

HELD_BYTES = 2**30
"""What a loader may hold of blocks in memory."""
NUM_PREFETCHED_STEPS = 2
"""Steps that are read ahead of the one that was asked for."""
Readers = Mapping[int, Sequence[SampleReader]]
"""By the length of samples; one for each dataset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Reads batches ahead on one thread, and blocks further ahead on others. For one consumer; close it when done."""

    plan: Plan
    """Which samples a step has."""
    manifests: tuple[DatasetManifest, ...]
    """Of the datasets that are read; they share an eos."""
    readers: Readers
    config: DataConfig
    dp_rank: int
    dp_size: int
    traffic: Traffic
    executor: ThreadPoolExecutor
    """Reads batches."""
    ahead: Ahead | None
    """Fetches blocks into the cache and into memory; None where there is neither."""
    buffers: Buffers = field(default_factory=Buffers)
    """Memory of its batches."""
    pending: dict[int, Future[TokenBatch]] = field(default_factory=dict)
    """Batches that are being read ahead, by step."""

    def rank_rows(self, step: int) -> range:
        """Rows of the global batch of a step that this rank trains on."""
        return _rank_rows(self.plan, step, self.dp_rank, self.dp_size)

    def batch(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1). What went wrong while reading ahead is raised at the step that needs it."""
        wanted = range(step, step + 1 + NUM_PREFETCHED_STEPS)
        if self.ahead is not None:
            self.executor.submit(self.ahead.look_from, step)  # packed rows are looked up on the store
        for other in self.pending.keys() - set(wanted):
            self.pending.pop(other).cancel()
        for ahead in wanted:
            if ahead not in self.pending:
                self.pending[ahead] = self.executor.submit(self.read, ahead)
        return self.pending.pop(step).result()

    def read(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1), read on the calling thread and without reading ahead."""
        samples = planned_samples(self.plan, step, self.rank_rows(step))
        seq_len = self.plan.phase_at(step).seq_len
        readers = self.readers[seq_len]
        return build_batch(
            samples,
            (readers[sample.source].row(sample.index) for sample in samples),
            seq_len=seq_len,
            eos_id=self.manifests[0].eos_id,
            document_masking=self.config.document_masking,
            repetition_filter=self.config.repetition_filter,
            buffers=self.buffers,
        )

    def close(self) -> None:
        """Stops reading ahead, after the read in progress. May be called twice."""
        if self.ahead is not None:
            self.ahead.close()
        self.executor.shutdown(cancel_futures=True)


def build_loader(
    *,
    manifests: Sequence[DatasetManifest],
    config: DataConfig,
    store: ObjectStore,
    cache_dir: Path,
    batch_rows: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    keeps_blocks: bool = False,
    elsewhere: Elsewhere = nowhere,
) -> Loader:
    """A loader for one of `dp_size` data-parallel ranks, of the datasets of `config.datasets`; `batch_rows` is that of `train`.

    `store` is at storage.root, `elsewhere` opens other roots, where registered shards are.
    With `keeps_blocks`, for stores not on a disk of this machine, what comes from the store is kept in `cache_dir` where that helps.
    Raises DatasetTooSmall, OrderImpossible, PackingMissing, CacheUnusable, or ValueError where `dp_rank` is none of the ranks.
    """
    if not 0 <= dp_rank < dp_size:
        raise ValueError(f"dp_rank={dp_rank}: not one of {dp_size} ranks")
    packings = load_packings(store, manifests, config)
    plan, shards, traffic = plan_of(manifests, config, batch_rows=batch_rows, packings=packings), ShardStore(store, elsewhere), Traffic()
    cache = open_cache(cache_dir, limit_bytes=config.cache_limit) if keeps_blocks and _is_near_itself(manifests, config) else None
    held = _num_held(manifests, config, -(-max(phase.batch_rows for phase in plan.phases) // dp_size))
    skips, open_pages = config.on_corrupt == "skip", partial(PageReader, shards=shards, cache=cache, num_held=held, traffic=traffic)
    pages = [open_pages(manifest=one, index=open_index(one, shards, cache_dir), skips_corrupt=skips) for one in manifests]
    readers = _readers(plan, pages, packings)
    return Loader(
        plan=plan,
        manifests=tuple(manifests),
        readers=readers,
        config=config,
        dp_rank=dp_rank,
        dp_size=dp_size,
        traffic=traffic,
        executor=ThreadPoolExecutor(1, thread_name_prefix="data-prefetch"),
        ahead=_ahead(partial(_wanted_at, plan, readers, dp_rank, dp_size), cache, held),
    )


def _ahead(wanted_at: Callable[[int], Iterator[Wanted]], cache: BlockCache | None, num_held: int) -> Ahead | None:
    if cache is None and not num_held:
        return None
    return Ahead(wanted_at=wanted_at, num_blocks=blocks_ahead(cache.limit_bytes) if cache else NUM_BLOCKS)


def _is_near_itself(manifests: Sequence[DatasetManifest], config: DataConfig) -> bool:
    """Whether what is read of a block is read before the block has to go."""
    return config.shuffle == "blocks" or 2 * sum(one.size_bytes for one in manifests) <= config.cache_limit


def _num_held(manifests: Sequence[DatasetManifest], config: DataConfig, rows: int) -> int:
    """Blocks of each dataset that so many rows read from at a time, and that are fetched ahead; 0 where they are too many to hold, or
    where a row's neighbours come too late."""
    num_blocks = rows * config.shuffle_window + NUM_BLOCKS
    num_bytes = sum(num_blocks * BLOCK_TOKENS * file_dtype(one.dtype).itemsize for one in manifests)
    return num_blocks if config.shuffle == "blocks" and num_bytes <= HELD_BYTES else 0


def _wanted_at(plan: Plan, readers: Readers, dp_rank: int, dp_size: int, step: int) -> Iterator[Wanted]:
    """What a rank reads in a step, but for rows whose place can't be known; nothing behind the end of the data."""
    if plan.exhausted_at is not None and step >= plan.exhausted_at:
        return
    its = readers[plan.phase_at(step).seq_len]
    for sample in planned_samples(plan, step, _rank_rows(plan, step, dp_rank, dp_size)):
        with suppress(ShardCorrupt):  # of a table of packed rows: the batch that needs the row tells, or leaves it out
            yield its[sample.source].wanted(sample.index)


def _rank_rows(plan: Plan, step: int, dp_rank: int, dp_size: int) -> range:
    return rows_of_rank(dp_rank, num_ranks=dp_size, batch_rows=plan.phase_at(step).batch_rows)


def _readers(plan: Plan, pages: Sequence[PageReader], packings: Packings) -> Readers:
    return {
        seq_len: tuple(
            SampleReader(
                manifest=one.manifest,
                table=open_table(one.manifest, packings, one.shards.store, samples=plan.table(source, seq_len)),
                pages=one,
            )
            for source, one in enumerate(pages)
        )
        for seq_len in plan.shuffles
    }
