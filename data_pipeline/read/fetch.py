"""A shard, whole and checked against its manifest."""

import hashlib
from collections.abc import Iterator

from data_pipeline.dataset.manifest import ShardRef
from data_pipeline.dataset.shards import ShardStore, remedy
from data_pipeline.errors import ShardCorrupt

FETCH_SIZE_BYTES = 16 * 2**20
"""Whole pages, and so whole tokens."""


def fetch_shard(ref: ShardRef, shards: ShardStore) -> Iterator[bytes]:
    """The tokens of a shard, piece by piece; what was given counts only once there are no more: then its digest was the manifest's.

    Raises ShardMissing, ShardCorrupt, or what the store raises.
    """
    digest = hashlib.sha256()
    for start in range(0, ref.size_bytes, FETCH_SIZE_BYTES):
        wanted = min(FETCH_SIZE_BYTES, ref.size_bytes - start)
        data = shards.read(ref, start, wanted)
        if len(data) != wanted:
            raise cut_short(ref, shards, start + len(data))
        digest.update(data)
        yield data
    found = digest.hexdigest()
    if found != ref.sha256:
        raise ShardCorrupt(f"{shards.url(ref)}: its SHA-256 is {found[:12]}…, its manifest says {ref.sha256[:12]}…; {remedy(ref)}")


def cut_short(ref: ShardRef, shards: ShardStore, size_bytes: int) -> ShardCorrupt:
    """What to raise for a shard of so many bytes only."""
    found, expected = size_bytes + ref.offset_bytes, ref.size_bytes + ref.offset_bytes
    return ShardCorrupt(f"{shards.url(ref)}: has {found} bytes, its manifest says {expected}; {remedy(ref)}")
