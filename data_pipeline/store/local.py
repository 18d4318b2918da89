"""An object store in a directory: for one machine, or for a file system that every node mounts."""

from __future__ import annotations

import errno
import math
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from data_pipeline.store.protocol import (
    INCOMING,
    MARKER,
    AccessDenied,
    KeyExists,
    KeyMissing,
    ObjectInfo,
    StoreError,
    check_key,
    check_prefix,
    check_range,
)
from data_pipeline.store.retry import FileSystemFailed, backoff_delays, with_retries
from data_pipeline.store.root import MOST_TRIES, make_directory, root_at, sync_directory

Result = TypeVar("Result")

LONGEST_KEY_IN_NAME = 200
"""Characters of a quoted key; with what follows them they make less than the 255 that file systems allow."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that can't link, which is what makes one of several writers the first: FAT, many in user space."""
FOR_GOOD = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EFBIG, errno.EXDEV, errno.EMLINK, errno.EILSEQ)
"""What says that this key or this object can't be had here. Of whatever else goes wrong with a file system, another try may do."""
_CHANCE = random.SystemRandom().random
FULL = (errno.ENOSPC, errno.EDQUOT)
WHOLE = "."
"""For `holds`: a directory of files that are only read."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Objects are files, written under `.incoming`, synced, then linked or renamed into place, so that none is ever half visible.

    Leftovers of a writer that died stay under `.incoming`, unseen: `abort_writes` removes them.
    """

    root: Path
    deadline_s: float = 0.0
    """How long one operation is tried again where the file system fails or is away."""
    holds: str = ""
    """What is there for certain: a root without it is not the store, but the place where it is mounted. Empty where nothing is known;
    WHOLE where all that is asked for is.
    """

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._write(key, data, _replace)

    def create(self, key: str, data: bytes) -> None:
        url = self.url(key)
        self._write(key, data, lambda incoming, target: _link(incoming, target, url))

    def get(self, key: str) -> bytes:
        check_key(key)
        return self._patiently(key, lambda base: (base / key).read_bytes())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_key(key)
        check_range(start, length)

        descriptor = root_at(self.root).opened_file(key)  # training reads thousands of ranges a second
        if descriptor is not None:
            with suppress(OSError):
                return _read_and_close(descriptor, start, length)
        return self._patiently(key, lambda base: _read_and_close(os.open(f"{base}/{key}", os.O_RDONLY), start, length))

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        directory = check_prefix(prefix).rpartition("/")[0]

        def look(base: Path) -> list[ObjectInfo]:
            found = (info for info in _walk(base / directory, directory) if info.key.startswith(prefix) and info.key > after)
            return sorted(found, key=lambda info: info.key)

        try:
            return self._patiently(prefix, look)
        except KeyMissing:
            return []

    def delete(self, key: str) -> None:
        def remove(base: Path) -> None:
            (base / key).unlink(missing_ok=True)
            with suppress(OSError):  # what has others in it stays
                for above in Path(key).parents[:-1]:
                    (base / above).rmdir()

        check_key(key)
        with suppress(KeyMissing):
            self._patiently(key, remove)

    def abort_writes(self, prefix: str, is_abandoned: Callable[[str], bool], *, begun_before_s: float = math.inf) -> int:
        check_prefix(prefix)

        def abort(base: Path) -> int:
            aborted = 0
            for name in os.listdir(base / INCOMING):
                key = _key_of_incoming(name)
                path = base / INCOMING / name
                with suppress(FileNotFoundError):  # it has just come to its end
                    if key.startswith(prefix) and is_abandoned(key) and path.stat().st_mtime < begun_before_s:
                        path.unlink()
                        aborted += 1
            return aborted

        try:
            return self._patiently(prefix, abort)
        except KeyMissing:
            return 0

    def url(self, key: str) -> str:
        return str(self.root / key)

    def _write(self, key: str, data: bytes | memoryview, place: Callable[[_Incoming, Path], None]) -> None:
        """A synced file of `data`, which `place` brings to where it belongs; the move is synced too."""
        incoming = _Incoming(_incoming_name(check_key(key)))

        def write(base: Path) -> None:
            target = base / key
            make_directory(base / INCOMING, shown=self.root / INCOMING)
            incoming.fill(base, data)
            for tries_left in reversed(range(MOST_TRIES)):
                make_directory(target.parent, shown=(self.root / key).parent)
                try:
                    place(incoming, target)
                    break
                except FileNotFoundError:
                    if not (tries_left and incoming.path.exists()):
                        raise
            with suppress(FileNotFoundError):  # where the object is deleted already
                sync_directory(target.parent)

        try:
            self._patiently(key, write, writes=True)
        finally:
            incoming.remove(self.root)

    def _patiently(self, key: str, act: Callable[[Path], Result], *, writes: bool = False) -> Result:
        """What `act` returns, given the root, once the file system lets it. Raises StoreUnavailable by the deadline."""

        def attempt() -> Result:
            try:
                with root_at(self.root).opened(writes=writes, holds=self.holds) as base, self._told_if_away(base, key):
                    return act(base)
            except OSError as error:
                raise _to_store_error(error, self.url(key)) from error

        delays_s = backoff_delays(chance=_CHANCE)
        return with_retries(attempt, delays_s=delays_s, deadline_s=self.deadline_s, clock=time.monotonic, sleep=time.sleep)

    @contextmanager
    def _told_if_away(self, base: Path, key: str) -> Iterator[None]:
        """Of what is there for certain, a file is not gone alone with all that was beside it: its file system is."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            if self.holds == WHOLE and (above := _nearest_directory(base, key)) is not None and not os.listdir(base / above):
                where = self.root / above
                raise FileSystemFailed(f"{where}: is empty; is its file system mounted? Mount it again, or restore its files") from None
            raise


def _nearest_directory(base: Path, key: str) -> Path | None:
    """The lowest one above a key, of those that are there."""
    return next((above for above in Path(key).parents if (base / above).is_dir()), None)


def _read_and_close(descriptor: int, start: int, length: int) -> bytes:
    try:
        return _read(descriptor, start, length)
    finally:
        os.close(descriptor)


def _read(descriptor: int, start: int, length: int) -> bytes:
    """Up to `length` bytes; the kernel gives at most 2 GiB at once."""
    data = os.pread(descriptor, length, start)
    if len(data) == length or not data:
        return data
    return data + _read(descriptor, start + len(data), length - len(data))


@dataclass(slots=True)
class _Incoming:
    """A file that is on its way. It stays from one try to the next, so that a writer who was the first knows itself again."""

    name: str
    path: Path = Path()
    """By the present try's handle of the root."""
    is_full: bool = False

    def fill(self, base: Path, data: bytes | memoryview) -> None:
        """Leaves nothing where it fails."""
        self.path = base / INCOMING / self.name
        if self.is_full:
            return
        try:
            _write_synced(self.path, data)
        except BaseException:
            self.remove(base)
            raise
        self.is_full = True

    def remove(self, base: Path) -> None:
        with suppress(OSError):  # what went wrong before is the thing to tell; `abort_writes` finds it
            (base / INCOMING / self.name).unlink(missing_ok=True)


def _replace(incoming: _Incoming, target: Path) -> None:
    os.replace(incoming.path, target)
    incoming.is_full = False


def _link(incoming: _Incoming, target: Path, url: str) -> None:
    try:
        os.link(incoming.path, target)
    except FileExistsError:
        if not _is_same_file(incoming.path, target):  # NFS repeats a call whose answer got lost, and finds what the first one did; so do we
            raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise StoreError(f"{url}: this file system has no hard links; choose another storage.root") from error


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
        case OSError(errno=number) if number in FOR_GOOD:
            return StoreError(f"{url}: {_cause_of(error)}; check the file system of storage.root")
        case OSError(errno=number) if number in FULL:
            return FileSystemFailed(f"{url}: {_cause_of(error)}; free some or choose another storage.root")
        case OSError(errno=errno.EROFS):
            return FileSystemFailed(f"{url}: {_cause_of(error)}; mount the file system of storage.root for writing")
        case _:
            return FileSystemFailed(f"{url}: {_cause_of(error)}; check the file system of storage.root, and what serves it")


def _cause_of(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on the device"
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__


def _walk(directory: Path, key: str) -> Iterator[ObjectInfo]:
    """Files below `directory`, whose key is `key`. What vanishes meanwhile is left out."""
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        entry_key = f"{key}/{entry.name}" if key else entry.name
        if entry.name == INCOMING or entry.name.startswith(MARKER):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), entry_key)
            continue
        with suppress(FileNotFoundError):
            status = entry.stat()
            yield ObjectInfo(key=entry_key, size_bytes=status.st_size, modified_at_s=status.st_mtime)


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
