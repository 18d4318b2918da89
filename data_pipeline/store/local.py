"""An object store in a directory: for one machine, or for a file system that every node mounts."""

import errno
import math
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from data_pipeline.store.protocol import (
    INCOMING,
    AccessDenied,
    KeyExists,
    KeyMissing,
    ObjectInfo,
    StoreError,
    check_key,
    check_prefix,
    check_range,
)

LONGEST_KEY_IN_NAME = 200
"""Characters of a quoted key; with what follows them they make less than the 255 that file systems allow."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that can't link, which is what makes one of several writers the first: FAT, many in user space."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Objects are files, written under `.incoming`, synced, then linked or renamed into place, so that none is ever half visible.

    Leftovers of a writer that died stay under `.incoming`, unseen: `abort_writes` removes them.
    """

    root: Path

    def put(self, key: str, data: bytes) -> None:
        with self._incoming(key, data) as (temporary, target):
            os.replace(temporary, target)

    def create(self, key: str, data: bytes) -> None:
        with self._incoming(key, data) as (temporary, target):
            try:
                os.link(temporary, target)
            except FileExistsError:
                if not _is_same_file(temporary, target):  # NFS repeats a call whose answer got lost, and finds what the first one did
                    raise
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                raise StoreError(f"{self.url(key)}: this file system has no hard links; choose another storage.root") from error

    def get(self, key: str) -> bytes:
        with self._errors_of(key):
            return self._path(key).read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        with self._errors_of(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        directory = check_prefix(prefix).rpartition("/")[0]
        with self._errors_of(prefix):
            found = (info for info in _walk(self.root / directory, directory) if info.key.startswith(prefix) and info.key > after)
            return sorted(found, key=lambda info: info.key)

    def delete(self, key: str) -> None:
        with self._errors_of(key), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._path(key).unlink()

    def abort_writes(self, prefix: str, is_abandoned: Callable[[str], bool], *, begun_before_s: float = math.inf) -> int:
        check_prefix(prefix)
        aborted = 0
        with self._errors_of(prefix), suppress(FileNotFoundError):
            for path in (self.root / INCOMING).iterdir():
                key = _key_of_incoming(path.name)
                with suppress(FileNotFoundError):  # it has just come to its end
                    if key.startswith(prefix) and is_abandoned(key) and path.stat().st_mtime < begun_before_s:
                        path.unlink()
                        aborted += 1
        return aborted

    def url(self, key: str) -> str:
        return str(self.root / key)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _incoming(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A synced file of `data` and the place where it belongs; the caller moves it, then the move is synced."""
        target = self._path(key)
        temporary = self.root / INCOMING / _incoming_name(key)
        with self._errors_of(key):
            _make_directory(temporary.parent)
            _make_directory(target.parent)
            try:
                _write_synced(temporary, data)
                yield temporary, target
            finally:
                temporary.unlink(missing_ok=True)
            _sync_directory(target.parent)

    @contextmanager
    def _errors_of(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _to_store_error(error, self.url(key)) from error


def _incoming_name(key: str) -> str:
    """A new file name that tells which key it is for, as far as the length of a name allows."""
    return f"{quote(key, safe='')[:LONGEST_KEY_IN_NAME]}.{uuid.uuid4().hex}"


def _key_of_incoming(name: str) -> str:
    """The key that a file below `.incoming` is for, or its beginning; empty where the name does not tell."""
    return unquote(name.rpartition(".")[0])


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _to_store_error(error: OSError, url: str) -> StoreError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return KeyMissing(f"{url}: no such object; check the name and storage.root")
        case FileExistsError():
            return KeyExists(f"{url}: exists already; another writer was first")
        case PermissionError():
            return AccessDenied(f"{url}: permission denied; give this user access to storage.root, or choose another")
        case IsADirectoryError():
            return KeyMissing(f"{url}: is a directory, not an object; check the name")
        case OSError(errno=errno.ENOSPC):
            return StoreError(f"{url}: no space left on the device; free some or choose another storage.root")
        case _:
            return StoreError(f"{url}: {error.strerror or type(error).__name__}; check the file system of storage.root")


def _walk(directory: Path, key: str) -> Iterator[ObjectInfo]:
    """Files below `directory`, whose key is `key`. What vanishes meanwhile is left out."""
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        entry_key = f"{key}/{entry.name}" if key else entry.name
        if entry.name == INCOMING:
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), entry_key)
            continue
        with suppress(FileNotFoundError):
            status = entry.stat()
            yield ObjectInfo(key=entry_key, size_bytes=status.st_size, modified_at_s=status.st_mtime)


def _make_directory(directory: Path) -> None:
    """Makes the directory and those above it, durably."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    try:
        directory.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise StoreError(f"{directory}: is an object, and can't be a directory of others too; choose another key") from error
    except FileNotFoundError as error:  # some file systems, such as /proc, refuse like this
        raise StoreError(f"{directory}: this directory can't be created; choose another storage.root") from error
    _sync_directory(directory.parent)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
