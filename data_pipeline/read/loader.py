"""Feeds one rank: its rows of a step as tensors. The step is the only state, so resuming is asking for another step."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.order.samples import samples_of_rows
from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.sample_reader import SampleReader
from data_pipeline.store.protocol import ObjectStore

NUM_PREFETCHED_STEPS = 2
"""Steps that are read ahead of the one that was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Reads batches ahead on one thread. For one consumer; close it when done."""

    reader: SampleReader
    seed: int
    """Chooses the order of samples."""
    batch_rows: int
    """Rows of the global batch."""
    rank_rows: range
    """Rows of the global batch that this rank trains on."""
    executor: ThreadPoolExecutor
    pending: dict[int, Future[TokenBatch]] = field(default_factory=dict)
    """Batches that are being read ahead, by step."""

    @property
    def num_samples(self) -> int:
        """Samples of the dataset: the length of an epoch."""
        return self.reader.table.num_samples

    def batch(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1). What went wrong while reading ahead is raised at the step that needs it."""
        wanted = range(step, step + 1 + NUM_PREFETCHED_STEPS)
        for other in self.pending.keys() - set(wanted):
            self.pending.pop(other).cancel()
        for ahead in wanted:
            if ahead not in self.pending:
                self.pending[ahead] = self.executor.submit(self.read, ahead)
        return self.pending.pop(step).result()

    def read(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1), read on the calling thread and without reading ahead."""
        samples = samples_of_rows(self.rank_rows, step, batch_rows=self.batch_rows, num_samples=self.num_samples, seed=self.seed)
        return self.reader.read_batch(samples)

    def close(self) -> None:
        """Stops reading ahead, after the read in progress. May be called twice."""
        self.executor.shutdown(cancel_futures=True)


def build_loader(
    *, manifest: DatasetManifest, config: DataConfig, store: ObjectStore, cache_dir: Path, batch_rows: int, rank_rows: range
) -> Loader:
    """A loader for one rank: `batch_rows` are the rows of the global batch, `rank_rows` those of this rank.

    Raises DatasetTooSmall, or ValueError where `rank_rows` are not rows of the batch.
    """
    if not rank_rows or min(rank_rows) < 0 or max(rank_rows) >= batch_rows:
        raise ValueError(f"rank_rows={rank_rows}: not rows of a batch of {batch_rows}")
    table = build_sample_table(manifest, config.seq_len)
    return Loader(
        reader=SampleReader(manifest=manifest, table=table, store=store, cache_dir=cache_dir, document_masking=config.document_masking),
        seed=config.seed,
        batch_rows=batch_rows,
        rank_rows=rank_rows,
        executor=ThreadPoolExecutor(1, thread_name_prefix="data-prefetch"),
    )
