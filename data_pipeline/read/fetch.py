"""A shard from the object store, whole and checked against its manifest."""

import hashlib
from collections.abc import Iterator

from data_pipeline.dataset.manifest import ShardRef
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.store.protocol import KeyMissing, ObjectStore

FETCH_SIZE_BYTES = 16 * 2**20
RESTORE = "rebuild the dataset with `braid data build`, or restore this object"


def fetch_shard(ref: ShardRef, store: ObjectStore) -> Iterator[bytes]:
    """The bytes of a shard, piece by piece; what was given counts only once there are no more: then its digest was the manifest's.

    Raises ShardMissing, ShardCorrupt, or what the store raises.
    """
    digest = hashlib.sha256()
    for start in range(0, ref.size_bytes, FETCH_SIZE_BYTES):
        wanted = min(FETCH_SIZE_BYTES, ref.size_bytes - start)
        try:
            data = store.get_range(ref.key, start, wanted)
        except KeyMissing as error:
            raise ShardMissing(f"{store.url(ref.key)}: is in the manifest but not in the store; {RESTORE}") from error
        if len(data) != wanted:
            raise ShardCorrupt(f"{store.url(ref.key)}: has {start + len(data)} bytes, its manifest says {ref.size_bytes}; {RESTORE}")
        digest.update(data)
        yield data
    found = digest.hexdigest()
    if found != ref.sha256:
        raise ShardCorrupt(f"{store.url(ref.key)}: its SHA-256 is {found[:12]}…, its manifest says {ref.sha256[:12]}…; {RESTORE}")
