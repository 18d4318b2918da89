"""What says which tokens a row has, cheaply; and the same of a dataset's samples, for who checks what a run trained on. No torch."""

from collections.abc import Iterable

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.dataset.plan import plan_of
from data_pipeline.dataset.progress import Progress, unwatched
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import SampleTable, TokenRange
from data_pipeline.order.samples import digest_of_token_sums, first_position, token_sums
from data_pipeline.read.fetch import fetch_shard
from data_pipeline.store.protocol import ObjectStore


def row_hash(tokens: NDArray[np.int64]) -> int:
    """64 bits of a row's inputs and its last label: XXH3 of the tokens as little-endian int64, however a shard stores them."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(tokens, dtype="<i8").data)


def token_digests(
    steps: Iterable[int],
    *,
    manifest: DatasetManifest,
    config: DataConfig,
    batch_rows: int,
    store: ObjectStore,
    progress: Progress = unwatched,
) -> dict[int, str]:
    """The digest of the tokens of steps, as the shards have them now, in the form that the ledger keeps.

    With `config.on_corrupt=skip`, steps with samples of shards that can't be read are left out.
    Raises DatasetTooSmall, ShardMissing, ShardCorrupt, or what the store raises.
    """
    table = build_sample_table(manifest, config.seq_len)
    plan, rows = plan_of(manifest, config, batch_rows=batch_rows), range(batch_rows)
    samples = {step: plan.rows(step, rows).indices.tolist() for step in steps}
    wanted = {index for indices in samples.values() for index in indices}
    skips = config.on_corrupt == "skip"
    hashes = hashes_of_samples(wanted, manifest=manifest, table=table, store=store, progress=progress, skips_corrupt=skips)
    return {
        step: digest_of_token_sums(
            token_sums((position, hashes[index]) for position, index in enumerate(indices, first_position(step, batch_rows=batch_rows)))
        )
        for step, indices in samples.items()
        if hashes.keys() >= set(indices)
    }


def hashes_of_samples(
    samples: Iterable[int],
    *,
    manifest: DatasetManifest,
    table: SampleTable,
    store: ObjectStore,
    progress: Progress = unwatched,
    skips_corrupt: bool = False,
) -> dict[int, int]:
    """The `row_hash` of samples, by their index: every shard that holds one is read once, whole, and checked.

    With `skips_corrupt` samples of a shard that is missing or fails that check are left out.
    Raises ShardMissing, ShardCorrupt, or what the store raises.
    """
    by_shard: dict[int, list[tuple[int, TokenRange]]] = {}
    for sample in samples:
        wanted = table.locate(sample)
        by_shard.setdefault(wanted.shard, []).append((sample, wanted))
    hashes = {}
    for number, (shard, its_samples) in enumerate(sorted(by_shard.items()), start=1):
        progress(number, len(by_shard))
        try:
            tokens = np.frombuffer(b"".join(fetch_shard(manifest.shards[shard], store)), dtype=file_dtype(manifest.dtype))
        except (ShardMissing, ShardCorrupt):
            if skips_corrupt:
                continue
            raise
        for sample, wanted in its_samples:
            hashes[sample] = row_hash(tokens[wanted.start : wanted.start + wanted.count].astype(np.int64))
    return hashes
