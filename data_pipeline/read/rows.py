"""Single rows of a dataset, as a person looks at them: where they lie, and what they say. No torch."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dataset.documents import ShardDocument, documents_in
from data_pipeline.dataset.documents_beside import documents_beside
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DataError, DocumentsUnknown, ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import RowTable, TokenRange
from data_pipeline.order.samples import SampleRef
from data_pipeline.read.page_index import StoredIndex
from data_pipeline.read.page_reader import Block, PageReader
from data_pipeline.store.protocol import KeyMissing, ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class RowDocument:
    """A document or a part of one, in a row."""

    text: str
    """Without eos."""
    file: str = ""
    """Of the corpus; empty where it is not known."""
    number: int = 0
    """Its line, record or row in the file."""
    id: str = ""
    """What its record calls itself; empty for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a batch."""

    dataset: str
    epoch: int
    sample: int
    shard: str
    """Where it is."""
    first_token: int | None
    """In the shard; None where the table that says it can't be read."""
    end_token: int | None
    """The one after the row's last label."""
    ranges: tuple[tuple[int, int], ...]
    """The same of each run of tokens, of which packed rows have several."""
    documents: tuple[RowDocument, ...]
    """In order; () where it can't be read."""
    problem: str = ""
    """Why it, or the table of its documents, can't be read."""
    unknown: str = ""
    """Why nothing is known of its documents but their text."""


Decode = Callable[[NDArray[np.int64]], str]


def read_rows(
    samples: Sequence[SampleRef], *, manifests: Sequence[DatasetManifest], tables: Sequence[RowTable], shards: ShardStore
) -> list[Row]:
    """Rows that can't be read say why. `tables` say where those of each dataset are.

    Raises TokenizerInvalid, DataError where a tokenizer is lost, or what the store raises.
    """
    sources = {sample.source for sample in samples}
    decode = {source: _decoder(manifests[source], shards.store) for source in sources}
    return [_row(one, tables[one.source], manifests[one.source], shards, decode[one.source]) for one in samples]


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


def _row(sample: SampleRef, table: RowTable, manifest: DatasetManifest, shards: ShardStore, text_of: Decode) -> Row:
    ref, ranges, parts = manifest.shards[table.shard_of(sample.index)], list[TokenRange](), []
    known: list[ShardDocument] = []
    problem = unknown = ""
    try:
        ranges = table.ranges(sample.index)
        parts = [(_tokens(one, manifest, shards), one.start) for one in ranges]
        known = _known(ref, range(ranges[0].start, ranges[-1].start + ranges[-1].length), shards)
    except DocumentsUnknown as error:
        unknown = str(error)
    except (ShardMissing, ShardCorrupt) as error:
        problem = str(error)
    return Row(
        dataset=manifest.name,
        epoch=sample.epoch,
        sample=sample.index,
        shard=shards.url(ref),
        first_token=ranges[0].start if ranges else None,
        end_token=ranges[-1].start + ranges[-1].length if ranges else None,
        ranges=tuple((one.start, one.start + one.length) for one in ranges),
        documents=tuple(one for tokens, start in parts for one in _documents(tokens, start, known, manifest.eos_id, text_of)),
        problem=problem,
        unknown=unknown,
    )


def _known(ref: ShardRef, tokens: range, shards: ShardStore) -> list[ShardDocument]:
    """What is recorded of the documents of these tokens. Raises DocumentsUnknown, ShardCorrupt, or what the store raises."""
    return documents_beside(shards, ref, tokens) if ref.pages_key else documents_in(shards.store, ref, tokens)


def _documents(
    tokens: NDArray[np.int64], first: int, known: Sequence[ShardDocument], eos_id: int, text_of: Decode
) -> Iterator[RowDocument]:
    """Tokens that begin with number `first` of their shard, cut where documents end; what is eos alone is none."""
    starts = [document.start for document in known]
    cuts = sorted({*(np.flatnonzero(tokens == eos_id) + 1).tolist(), *(start - first for start in starts if start > first)})
    for begin, part in zip([0, *cuts], np.split(tokens, cuts), strict=True):
        if not (part := part[part != eos_id]).size:
            continue
        before = known[: bisect_right(starts, first + begin)][-1:]
        if before and first + begin < before[0].end:
            yield RowDocument(text=text_of(part), file=before[0].file, number=before[0].number, id=before[0].id)
        else:
            yield RowDocument(text=text_of(part))


def _tokens(where: TokenRange, manifest: DatasetManifest, shards: ShardStore) -> NDArray[np.int64]:
    """Checked where the dataset has digests of its pages. Raises ShardMissing, ShardCorrupt."""
    dtype, ref = file_dtype(manifest.dtype), manifest.shards[where.shard]
    first, end = where.start * dtype.itemsize, (where.start + where.length) * dtype.itemsize
    if manifest.pages is None and not ref.pages_key:
        data = shards.read(ref, first, end - first)
    else:
        pages = range(first // PAGE_BYTES, -(-end // PAGE_BYTES))
        reader = PageReader(manifest=manifest, shards=shards, index=StoredIndex(manifest, shards.store), cache=None)
        data = reader.read(Block(where.shard, pages), pages)[first - pages.start * PAGE_BYTES :][: end - first]
    return np.frombuffer(data, dtype=dtype).astype(np.int64)
