"""A cache of shards on the local disk: each is fetched whole, once per node, and checked before use.

A file is named by the SHA-256 of its shard, so that processes, runs and datasets may share a cache directory.
"""

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.dataset.manifest import ShardRef
from data_pipeline.errors import CacheUnusable, ShardCorrupt, ShardMissing
from data_pipeline.store.protocol import KeyMissing, ObjectStore

FETCH_SIZE_BYTES = 16 * 2**20


def cached_shard(ref: ShardRef, *, store: ObjectStore, directory: Path) -> Path:
    """The local file of a shard, fetched if it is not there yet. Of several processes one fetches and the others wait for it.

    Raises ShardMissing, ShardCorrupt, CacheUnusable, or what the store raises.
    """
    path = directory / ref.sha256
    with _disk_errors(directory):
        if _is_complete(path, ref):
            return path
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f"{ref.sha256}.lock")):
            if not _is_complete(path, ref):
                _remove_leftovers(path)
                _fetch(ref, store, path)
    return path


def _is_complete(path: Path, ref: ShardRef) -> bool:
    """Whether the shard is cached. A file gets its name only after its digest was checked; its size is checked again, for free."""
    try:
        return path.stat().st_size == ref.size_bytes
    except FileNotFoundError:
        return False


def _remove_leftovers(path: Path) -> None:
    """What killed processes had fetched of this shard or of others: whoever fetches one holds its lock, and we hold that of `path`."""
    for part in path.parent.glob("*.part"):
        sha256 = part.name.partition(".")[0]
        with suppress(OSError), path.with_name(f"{sha256}.lock").open("ab") as lock:
            if sha256 != path.name:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _fetch(ref: ShardRef, store: ObjectStore, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    digest = hashlib.sha256()
    try:
        with temporary.open("xb") as file:
            for data in _ranges_of(ref, store):
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != ref.sha256:
            raise ShardCorrupt(
                f"{store.url(ref.key)}: its SHA-256 is {digest.hexdigest()[:12]}…, its manifest says {ref.sha256[:12]}…; "
                "rebuild the dataset with `braid data build`, or restore this object"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _ranges_of(ref: ShardRef, store: ObjectStore) -> Iterator[bytes]:
    for start in range(0, ref.size_bytes, FETCH_SIZE_BYTES):
        wanted = min(FETCH_SIZE_BYTES, ref.size_bytes - start)
        try:
            data = store.get_range(ref.key, start, wanted)
        except KeyMissing as error:
            remedy = "rebuild it with `braid data build` or fix storage.root"
            raise ShardMissing(f"{store.url(ref.key)}: is in the manifest but not in the store; {remedy}") from error
        if len(data) != wanted:
            raise ShardCorrupt(
                f"{store.url(ref.key)}: has {start + len(data)} bytes, its manifest says {ref.size_bytes}; "
                "rebuild the dataset with `braid data build`, or restore this object"
            )
        yield data


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclusive among processes and threads; freed by the kernel when its holder dies."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or type(error).__name__
        raise CacheUnusable(f"{directory}: can't keep shards here ({reason}); free space, or choose another cache directory") from error
