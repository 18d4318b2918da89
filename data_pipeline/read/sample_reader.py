"""From samples to their tokens, read through the cache of shards and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.sample_table import SampleTable, TokenRange
from data_pipeline.order.samples import SampleRef
from data_pipeline.read.batch import TokenBatch, build_batch
from data_pipeline.read.cache import cached_shard
from data_pipeline.store.protocol import ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleReader:
    """Turns samples into batches. Keeps nothing but shards in the cache."""

    manifest: DatasetManifest
    table: SampleTable
    store: ObjectStore
    cache_dir: Path
    """Where shards are kept on the local disk."""
    document_masking: bool
    """See `DataConfig`."""

    def read_batch(self, samples: Sequence[SampleRef]) -> TokenBatch:
        """A batch with one row for each sample. Raises ShardMissing, ShardCorrupt, CacheUnusable, or what the store raises."""
        rows = [self._read_range(self.table.locate(sample.index)) for sample in samples]
        return build_batch(samples, rows, eos_id=self.manifest.eos_id, document_masking=self.document_masking)

    def _read_range(self, wanted: TokenRange) -> NDArray[np.int64]:
        ref = self.manifest.shards[wanted.shard]
        path = cached_shard(ref, store=self.store, directory=self.cache_dir)
        tokens = read_tokens(path, dtype=self.manifest.dtype, start=wanted.start, count=wanted.count)
        if tokens.max() >= self.manifest.vocab_size:
            at = int((tokens >= self.manifest.vocab_size).argmax())
            remedy = "the manifest's dtype or vocab_size is wrong: `braid data inspect --verify`, or rebuild the dataset"
            raise ShardCorrupt(
                f"{self.store.url(ref.key)}: token {tokens[at]} at {wanted.start + at}, but vocab_size={self.manifest.vocab_size}; {remedy}"
            )
        return tokens


def read_tokens(path: Path, *, dtype: str, start: int, count: int) -> NDArray[np.int64]:
    """Tokens [start, start + count) of a shard's file whose tokens are `dtype`; shape (count,).

    A plain read rather than a memory map: as fast for a sample's few kilobytes, and a truncated file is an error instead of a SIGBUS.
    Raises ShardCorrupt where the file ends before.
    """
    numpy_dtype = file_dtype(dtype)
    tokens = np.fromfile(path, dtype=numpy_dtype, count=count, offset=start * numpy_dtype.itemsize)
    if len(tokens) != count:
        raise ShardCorrupt(f"{path}: ends before token {start + count}; delete this cached file, and it is fetched again")
    return tokens.astype(np.int64)
