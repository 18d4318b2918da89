"""Single rows of a dataset, as a person looks at them: where they lie, and what they say. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DataError, ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import TokenRange
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
    """Where it is."""
    first_token: int
    """In the shard."""
    end_token: int
    """The one after the row's last label."""
    documents: tuple[str, ...]
    """The text of each document or part of one, without eos, in order; () where it can't be read."""
    problem: str = ""
    """Why it can't be read."""


Decode = Callable[[NDArray[np.int64]], str]


def read_rows(samples: Sequence[SampleRef], *, manifests: Sequence[DatasetManifest], seq_len: int, shards: ShardStore) -> list[Row]:
    """Rows that can't be read say why. Raises TokenizerInvalid, DataError where a tokenizer is lost, or what the store raises."""
    sources = {sample.source for sample in samples}
    decode = {source: _decoder(manifests[source], shards.store) for source in sources}
    tables = {source: build_sample_table(manifests[source], seq_len) for source in sources}
    return [_row(one, tables[one.source].locate(one.index), manifests[one.source], shards, decode[one.source]) for one in samples]


def _decoder(manifest: DatasetManifest, store: ObjectStore) -> Decode:
    """Tokens in words; as numbers where the dataset was registered without a tokenizer."""
    key = manifest.tokenizer_key
    if not key:
        return lambda tokens: " ".join(map(str, tokens.tolist()))
    try:
        tokenizer = tokenizer_from_json(store.get(key), where=store.url(key))
    except KeyMissing as error:
        raise DataError(f"{store.url(key)}: the dataset's tokenizer is missing; restore it, or rebuild the dataset") from error
    return lambda tokens: str(tokenizer.decode(tokens.tolist(), skip_special_tokens=False))


def _row(sample: SampleRef, where: TokenRange, manifest: DatasetManifest, shards: ShardStore, text_of: Decode) -> Row:
    documents: tuple[str, ...] = ()
    problem = ""
    try:
        tokens = _tokens(where, manifest, shards)
        documents = tuple(map(text_of, _parts(tokens, manifest.eos_id)))
    except (ShardMissing, ShardCorrupt) as error:
        problem = str(error)
    return Row(
        dataset=manifest.name,
        epoch=sample.epoch,
        sample=sample.index,
        shard=shards.url(manifest.shards[where.shard]),
        first_token=where.start,
        end_token=where.start + where.count,
        documents=documents,
        problem=problem,
    )


def _parts(tokens: NDArray[np.int64], eos_id: int) -> list[NDArray[np.int64]]:
    ends = np.flatnonzero(tokens == eos_id)
    return [part for part in np.split(tokens[tokens != eos_id], ends - np.arange(len(ends))) if part.size]


def _tokens(where: TokenRange, manifest: DatasetManifest, shards: ShardStore) -> NDArray[np.int64]:
    """Checked where the dataset has digests of its pages. Raises ShardMissing, ShardCorrupt."""
    dtype, ref = file_dtype(manifest.dtype), manifest.shards[where.shard]
    first, end = where.start * dtype.itemsize, (where.start + where.count) * dtype.itemsize
    if manifest.pages is None and not ref.pages_key:
        data = shards.read(ref, first, end - first)
    else:
        pages = range(first // PAGE_BYTES, -(-end // PAGE_BYTES))
        reader = PageReader(manifest=manifest, shards=shards, index=StoredIndex(manifest, shards.store), cache=None)
        data = reader.read(Block(where.shard, pages), pages)[first - pages.start * PAGE_BYTES :][: end - first]
    return np.frombuffer(data, dtype=dtype).astype(np.int64)
