"""Feeds one rank: the rows of a step as tensors. The step is the only state, so resuming is asking for another step."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, SampleTable, build_sample_table
from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.samples import SampleRef, sample_at
from data_pipeline.read.cache import cached_shard
from data_pipeline.read.shard import read_tokens
from data_pipeline.store.protocol import ObjectStore

NUM_PREFETCHED_STEPS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """The rows of one rank. B rows, T tokens, P documents + 1."""

    samples: tuple[SampleRef, ...]
    """That the rows were read from, one each."""
    tokens_BT: torch.Tensor
    """int64, CPU."""
    labels_BT: torch.Tensor
    """int64, CPU: the next token of each; across a document's end too, as OLMo does."""
    document_offsets_P: torch.Tensor
    """int32, CPU: where documents start in the flattened rows (a row starts one, and so does the token after an eos), then B * T."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Turns samples into batches. Pure but for the cache it reads through."""

    manifest: DatasetManifest
    table: SampleTable
    store: ObjectStore
    cache_dir: Path

    def read_batch(self, samples: Sequence[SampleRef]) -> TokenBatch:
        rows = np.stack([self._read_sample(sample.index) for sample in samples])
        tokens = np.ascontiguousarray(rows[:, :-1])
        return TokenBatch(
            samples=tuple(samples),
            tokens_BT=torch.from_numpy(tokens),
            labels_BT=torch.from_numpy(np.ascontiguousarray(rows[:, 1:])),
            document_offsets_P=torch.from_numpy(document_offsets(tokens, self.manifest.eos_id)),
        )

    def _read_sample(self, index: int) -> NDArray[np.int64]:
        """seq_len + 1 tokens."""
        shard, start = self.table.locate(index)
        ref = self.manifest.shards[shard]
        path = cached_shard(ref, store=self.store, directory=self.cache_dir)
        tokens = read_tokens(path, dtype=self.manifest.dtype, start=start, count=self.table.seq_len + 1)
        if tokens.max() >= self.manifest.vocab_size:
            remedy = "the manifest's dtype or vocab_size is wrong: rebuild the dataset"
            raise ShardCorrupt(
                f"{self.store.url(ref.key)}: token {tokens.max()} at {start}+, but vocab_size={self.manifest.vocab_size}; {remedy}"
            )
        return tokens


def document_offsets(tokens_BT: NDArray[np.int64], eos_id: int) -> NDArray[np.int32]:
    """Starts of documents in the flattened rows, then the number of tokens; shape (P,)."""
    num_rows, seq_len = tokens_BT.shape
    row_starts = np.arange(num_rows + 1) * seq_len
    after_eos = np.flatnonzero(tokens_BT == eos_id) + 1
    return np.union1d(row_starts, after_eos).astype(np.int32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Reads ahead on one thread. For one consumer; close it when done."""

    reader: SampleReader
    seed: int
    batch_rows: int
    rank_rows: range
    executor: ThreadPoolExecutor
    pending: dict[int, Future[TokenBatch]] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return self.reader.table.num_samples

    def batch(self, step: int) -> TokenBatch:
        """This rank's rows of `step` (the first is 1). What went wrong while reading ahead is raised at the step which needs it."""
        wanted = range(step, step + 1 + NUM_PREFETCHED_STEPS)
        for other in self.pending.keys() - set(wanted):
            self.pending.pop(other).cancel()
        for ahead in wanted:
            if ahead not in self.pending:
                self.pending[ahead] = self.executor.submit(self.read, ahead)
        return self.pending.pop(step).result()

    def read(self, step: int) -> TokenBatch:
        """As `batch`, here and now."""
        if step < 1:
            raise ValueError(f"step={step}: the first step is 1")
        first = (step - 1) * self.batch_rows
        return self.reader.read_batch([sample_at(first + row, num_samples=self.num_samples, seed=self.seed) for row in self.rank_rows])

    def close(self) -> None:
        """Stops reading ahead, after the read in progress."""
        self.executor.shutdown(cancel_futures=True)


def build_loader(
    *, manifest: DatasetManifest, config: DataConfig, store: ObjectStore, cache_dir: Path, batch_rows: int, rank_rows: range
) -> Loader:
    """`batch_rows` are the rows of the global batch, `rank_rows` those of this rank.

    Raises DatasetTooSmall, or ValueError where `rank_rows` are not rows of the batch.
    """
    if not rank_rows or min(rank_rows) < 0 or max(rank_rows) >= batch_rows:
        raise ValueError(f"rank_rows={rank_rows}: not rows of a batch of {batch_rows}")
    table = build_sample_table(manifest, config.seq_len)
    return Loader(
        reader=SampleReader(manifest=manifest, table=table, store=store, cache_dir=cache_dir),
        seed=config.seed,
        batch_rows=batch_rows,
        rank_rows=rank_rows,
        executor=ThreadPoolExecutor(1, thread_name_prefix="data-prefetch"),
    )
