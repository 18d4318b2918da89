"""A cache of shards on the local disk: each is fetched whole, once per node, and every process checks it before its first use.

A file is named by the SHA-256 of its shard, so that processes, runs and datasets may share a cache directory.
"""

import errno
import fcntl
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.dataset.manifest import ShardRef
from data_pipeline.errors import CacheUnusable
from data_pipeline.read.fetch import fetch_shard
from data_pipeline.store.protocol import ObjectStore

log = logging.getLogger(__name__)
_checked: dict[Path, tuple[int, ...]] = {}
"""What this process found whole: a file's size, inode and time of change then. A disk forgets, so nobody trusts another's check."""


def cached_shard(ref: ShardRef, *, store: ObjectStore, directory: Path) -> Path:
    """The local file of a shard, fetched if it is not there yet. Of several processes one fetches and the others wait for it.

    Raises ShardMissing, ShardCorrupt, CacheUnusable, or what the store raises.
    """
    path = directory / ref.sha256
    with _disk_errors(directory):
        if _is_whole(path, ref):
            return path
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f"{ref.sha256}.lock")):
            if not _is_whole(path, ref):
                if path.exists():
                    log.warning("%s: this cached shard is damaged, it is fetched again from %s", path, store.url(ref.key))
                _remove_leftovers(path)
                _fetch(ref, store, path)
                _checked[path] = _identity(path)
    return path


def _is_whole(path: Path, ref: ShardRef) -> bool:
    """Whether the shard is cached: its digest, where this process has not checked this very file."""
    try:
        found = _identity(path)
        if found[0] != ref.size_bytes:
            return False
        if _checked.get(path) != found:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != ref.sha256:
                    return False
            _checked[path] = found
    except OSError:  # not there, or a disk that can't read it: fetching it says what is wrong with the disk
        return False
    return True


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_ino, found.st_ctime_ns  # no program can set the last one back


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
    try:
        with temporary.open("xb") as file:
            for data in fetch_shard(ref, store):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
