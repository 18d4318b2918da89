"""What says which tokens a row has, cheaply; and the same of a dataset's samples, for who checks what a run trained on. No torch."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.packing import load_packings
from data_pipeline.dataset.plan import plan_of, planned_samples
from data_pipeline.dataset.progress import Progress, unwatched
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.shards import Elsewhere, ShardStore, nowhere
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import RowTable, TokenRange
from data_pipeline.order.samples import digest_of_token_sums, token_sums
from data_pipeline.read.fetch import fetch_shard
from data_pipeline.read.packed_table import open_table
from data_pipeline.read.page_index import StoredIndex
from data_pipeline.read.page_reader import PageReader
from data_pipeline.read.sample_reader import SampleReader
from data_pipeline.store.protocol import ObjectStore

_INT64 = np.dtype("<i8")


def row_hash(tokens: NDArray[np.integer]) -> int:
    """64 bits of a row's inputs and its last label: XXH3 of the tokens as little-endian int64, however a shard stores them."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(tokens, _INT64).data)


def token_digests(
    steps: Iterable[int],
    *,
    manifests: Sequence[DatasetManifest],
    config: DataConfig,
    batch_rows: int,
    store: ObjectStore,
    elsewhere: Elsewhere = nowhere,
    progress: Progress = unwatched,
) -> dict[int, str]:
    """The digest of the tokens of steps, as the shards have them now, in the form that the ledger keeps.

    With `config.on_corrupt=skip`, steps with samples of shards that can't be read are left out.
    Raises DatasetTooSmall, OrderImpossible, ShardMissing, ShardCorrupt, or what the store raises.
    """
    packings = load_packings(store, manifests, config)
    plan = plan_of(manifests, config, batch_rows=batch_rows, packings=packings)
    rows = {step: [(sample.source, plan.phase_at(step).seq_len, sample.index) for sample in planned_samples(plan, step)] for step in steps}
    wanted: dict[tuple[int, int], set[int]] = {}
    for source, seq_len, index in chain.from_iterable(rows.values()):
        wanted.setdefault((source, seq_len), set()).add(index)
    skips = config.on_corrupt == "skip"
    hashes: dict[tuple[int, int, int], int] = {}
    for (source, seq_len), indices in wanted.items():
        table = open_table(manifests[source], packings, store, samples=plan.table(source, seq_len))
        found = hashes_of_samples(
            indices, manifest=manifests[source], table=table, store=store, elsewhere=elsewhere, progress=progress, skips_corrupt=skips
        )
        hashes |= {(source, seq_len, index): one for index, one in found.items()}
    sums = {
        step: token_sums(enumerate((hashes[row] for row in its), plan.position(step)))
        for step, its in rows.items()
        if hashes.keys() >= set(its)
    }
    return {step: digest_of_token_sums(of_step) for step, of_step in sums.items()}


def hashes_of_samples(
    samples: Iterable[int],
    *,
    manifest: DatasetManifest,
    table: RowTable,
    store: ObjectStore,
    elsewhere: Elsewhere = nowhere,
    progress: Progress = unwatched,
    skips_corrupt: bool = False,
) -> dict[int, int]:
    """The `row_hash` of samples, by their index: every shard that holds one is read once, a piece at a time, and checked.

    With `skips_corrupt` samples that can't be read are left out: of a shard that is damaged those of damaged pages, or all where the
    dataset has no digests of pages.
    Raises ShardMissing, ShardCorrupt, or what the store raises.
    """
    by_shard: dict[int, list[int]] = {}
    for sample in samples:
        by_shard.setdefault(table.shard_of(sample), []).append(sample)
    hashes: dict[int, int] = {}
    shards = ShardStore(store, elsewhere)
    padding = np.full(table.seq_len + 1, manifest.eos_id, file_dtype(manifest.dtype))
    for number, (shard, its_samples) in enumerate(sorted(by_shard.items()), start=1):
        progress(number, len(by_shard))
        rows: list[tuple[list[TokenRange], int]] = []
        for sample in its_samples:
            with suppress(*([ShardCorrupt] if skips_corrupt else [])):
                rows.append((table.ranges(sample), sample))
        rows.sort(key=lambda row: row[0][0].start)
        try:
            found = list(_hashes_of_rows(fetch_shard(manifest.shards[shard], shards), [ranges for ranges, _ in rows], padding))
        except (ShardMissing, ShardCorrupt):
            if not skips_corrupt:
                raise
            if manifest.has_page_digests:
                hashes |= _hashes_by_page([sample for _, sample in rows], manifest, table, shards, padding)
            continue
        hashes |= zip((sample for _, sample in rows), found, strict=True)
    return hashes


def _hashes_by_page(
    samples: Iterable[int], manifest: DatasetManifest, table: RowTable, shards: ShardStore, padding: NDArray[np.unsignedinteger]
) -> dict[int, int]:
    """The same of those samples of a damaged shard whose own pages are as they should be."""
    pages = PageReader(manifest=manifest, shards=shards, index=StoredIndex(manifest, shards.store), cache=None, skips_corrupt=True)
    reader = SampleReader(manifest=manifest, table=table, pages=pages)
    found = ((sample, reader.row(sample)) for sample in samples)
    return {sample: row_hash(np.concatenate([tokens, padding[len(tokens) :]])) for sample, tokens in found if tokens is not None}


def _hashes_of_rows(pieces: Iterable[bytes], rows: Sequence[Sequence[TokenRange]], padding: NDArray[np.unsignedinteger]) -> Iterator[int]:
    """The `row_hash` of rows of a shard, sorted by where they begin, each filled up with `padding`. What comes in pieces is held until the
    rows with it are through, and no longer.

    Pieces are taken to the last one, so that their digest is checked; they consist of whole tokens.
    """
    held, start, number = np.empty(0, padding.dtype), 0, 0
    for piece in pieces:
        held = np.concatenate([held, np.frombuffer(piece, padding.dtype)])
        while number < len(rows) and rows[number][-1].start + rows[number][-1].length <= start + len(held):
            parts = [held[one.start - start : one.start + one.length - start] for one in rows[number]]
            yield row_hash(np.concatenate([*parts, padding[sum(map(len, parts)) :]]))
            number += 1
        needed_from = rows[number][0].start if number < len(rows) else start + len(held)
        dropped = min(max(0, needed_from - start), len(held))
        held, start = held[dropped:], start + dropped
