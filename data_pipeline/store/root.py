"""The root of a store in a directory: which store it is, and whether it is there.

A directory whose file system was unmounted is still a directory. So the store's root bears a marker, `.braid-store/ID`, made with the first
object; a process that has seen the store does nothing to a root without it, and works through a handle of the root that it has looked at.
"""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

from data_pipeline.store.protocol import MARKER, StoreError
from data_pipeline.store.retry import FileSystemFailed

MOST_TRIES = 1000
"""At what others undo: who deletes the last object of a directory removes it."""


class Root:
    """What this process knows of the store at one place, whoever asks: made by `root_at`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._id = ""
        """Of the store that was seen here; empty before any, and for one of an earlier version that nobody has written to since."""
        self._marker: tuple[int, ...] = ()
        """The marker as it was seen last."""

    @contextmanager
    def opened(self, *, writes: bool, holds: str) -> Iterator[Path]:
        """A path to the root, which stays the same directory whatever is mounted there meanwhile.

        `holds`: what is there for certain below the store's root, where anything is; empty where there may be no store yet.
        Raises FileSystemFailed where the store is away, FileNotFoundError where none was ever seen.
        """
        handle = self._open(writes=writes, is_expected=bool(self._id or holds))
        try:
            base = Path(f"/proc/self/fd/{handle}")
            self._check(base, writes=writes, holds=holds)
            yield base
        finally:
            os.close(handle)

    def opened_file(self, key: str) -> int | None:
        """A descriptor of a file of the store that was seen here; None where that takes a closer look, which `opened` has."""
        try:
            handle = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            is_known = _told_by(os.stat(MARKER, dir_fd=handle)) == self._marker
            return os.open(key, os.O_RDONLY, dir_fd=handle) if is_known else None
        except OSError:
            return None
        finally:
            os.close(handle)

    def _open(self, *, writes: bool, is_expected: bool) -> int:
        try:
            return os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            if is_expected:
                raise self._away("there is no such directory") from error
            if isinstance(error, NotADirectoryError) and self.path.exists():
                raise StoreError(f"{self.path}: is a file, and no store; choose a directory") from error
            if not writes:
                raise
            make_directory(self.path, shown=self.path)
            return os.open(self.path, os.O_PATH | os.O_DIRECTORY)

    def _check(self, base: Path, *, writes: bool, holds: str) -> None:
        marker = _look_at(base)
        if marker is not None and marker == self._marker:
            return
        if marker is None and self._id:
            raise self._away(f"{MARKER} is missing")
        if not self._id and holds and not (base / holds).exists():
            raise self._away(f"{holds} is missing")
        if marker is None:
            if not writes or holds:
                return  # of an earlier version; the next command that writes marks it
            _make_marker(base)
        [found, *_] = os.listdir(base / MARKER)
        if self._id and found != self._id:
            raise self._away(f"another store is there, {found} instead of {self._id}")
        self._id, self._marker = found, _look_at(base) or ()

    def _away(self, why: str) -> FileSystemFailed:
        return FileSystemFailed(f"{self.path}: the store is not there ({why}); is its file system mounted? Mount it again")


@functools.cache
def root_at(path: Path) -> Root:
    return Root(path)


def _look_at(base: Path) -> tuple[int, ...] | None:
    """What tells a marker from any other without reading it; None where there is none."""
    try:
        return _told_by(os.stat(f"{base}/{MARKER}"))
    except FileNotFoundError:
        return None


def _told_by(marker: os.stat_result) -> tuple[int, ...]:
    return marker.st_dev, marker.st_ino, marker.st_ctime_ns


def _make_marker(base: Path) -> None:
    """A directory with one entry, renamed into place: only the first of several writers succeeds."""
    name = uuid.uuid4().hex
    made = base / f"{MARKER}.{name}"
    (made / name).mkdir(parents=True)
    try:
        os.rename(made, base / MARKER)
    except FileExistsError:
        pass
    except OSError:
        if not (base / MARKER).exists():
            raise
    finally:
        with suppress(OSError):
            (made / name).rmdir()
            made.rmdir()
    sync_directory(base)


def make_directory(directory: Path, *, shown: Path) -> None:
    """Makes the directory and those above it, durably, though others may remove empty ones; `shown` is its name for people."""
    for _ in range(MOST_TRIES):
        with suppress(FileNotFoundError, NotADirectoryError):
            if not S_ISDIR(directory.stat().st_mode):
                raise StoreError(f"{shown}: is an object, and can't be a directory of others too; choose another key")
            return
        make_directory(directory.parent, shown=shown.parent)
        with suppress(FileNotFoundError, FileExistsError):
            directory.mkdir()
            sync_directory(directory.parent)
    raise StoreError(f"{shown}: this directory can't be created; choose another storage.root")


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
