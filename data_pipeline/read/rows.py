"""Single rows of a dataset, as a person looks at them: where they lie, and what they say. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DataError, ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import SampleTable, TokenRange
from data_pipeline.order.samples import SampleRef
from data_pipeline.read.page_index import StoredIndex
from data_pipeline.read.page_reader import Block, PageReader
from data_pipeline.store.protocol import KeyMissing, ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a batch."""

    dataset: str
    epoch: int
    sample: int
    shard: str
    """Its key on the store."""
    first_token: int
    """In the shard."""
    end_token: int
    """The one after the row's last label."""
    documents: tuple[str, ...]
    """The text of each document or part of one, without eos, in order; () where it can't be read."""
    problem: str = ""
    """Why it can't be read."""


def read_rows(samples: Sequence[SampleRef], *, manifest: DatasetManifest, table: SampleTable, store: ObjectStore) -> list[Row]:
    """Rows that can't be read say why. Raises TokenizerInvalid, DataError where there is no tokenizer, or what the store raises."""
    key = manifest.tokenizer_key
    try:
        tokenizer = tokenizer_from_json(store.get(key), where=store.url(key))
    except KeyMissing as error:
        raise DataError(f"{store.url(key)}: the dataset's tokenizer is missing; restore it, or rebuild the dataset") from error

    def text_of(tokens: NDArray[np.int64]) -> str:
        return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=False))

    return [_row(sample, table.locate(sample.index), manifest, store, text_of) for sample in samples]


def _row(
    sample: SampleRef, where: TokenRange, manifest: DatasetManifest, store: ObjectStore, text_of: Callable[[NDArray[np.int64]], str]
) -> Row:
    documents: tuple[str, ...] = ()
    problem = ""
    try:
        tokens = _tokens(where, manifest, store)
        documents = tuple(map(text_of, _parts(tokens, manifest.eos_id)))
    except (ShardMissing, ShardCorrupt) as error:
        problem = str(error)
    return Row(
        dataset=manifest.name,
        epoch=sample.epoch,
        sample=sample.index,
        shard=manifest.shards[where.shard].key,
        first_token=where.start,
        end_token=where.start + where.count,
        documents=documents,
        problem=problem,
    )


def _parts(tokens: NDArray[np.int64], eos_id: int) -> list[NDArray[np.int64]]:
    ends = np.flatnonzero(tokens == eos_id)
    return [part for part in np.split(tokens[tokens != eos_id], ends - np.arange(len(ends))) if part.size]


def _tokens(where: TokenRange, manifest: DatasetManifest, store: ObjectStore) -> NDArray[np.int64]:
    """Checked where the dataset has digests of its pages. Raises ShardMissing, ShardCorrupt."""
    dtype = file_dtype(manifest.dtype)
    first, end = where.start * dtype.itemsize, (where.start + where.count) * dtype.itemsize
    if manifest.pages is not None:
        pages = range(first // PAGE_BYTES, -(-end // PAGE_BYTES))
        reader = PageReader(manifest=manifest, store=store, index=StoredIndex(manifest, manifest.pages, store), cache=None)
        data = reader.read(Block(where.shard, pages), pages)[first - pages.start * PAGE_BYTES :][: end - first]
    else:
        key = manifest.shards[where.shard].key
        try:
            data = store.get_range(key, first, end - first)
        except KeyMissing as error:
            raise ShardMissing(f"{store.url(key)}: is in the manifest but not in the store") from error
    return np.frombuffer(data, dtype=dtype).astype(np.int64)
