"""Directories of one process: removed with what it does, or by the next one where it was killed."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_directory(path: Path) -> Iterator[Path]:
    """A new directory, which may be renamed, and is removed else when the block ends. The kernel unlocks it when the process dies."""
    unnamed = path.with_name(f"{path.name}.new")  # until it is locked, so that nobody takes it for an orphan
    unnamed.mkdir()
    lock = os.open(unnamed, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock)
        unnamed.rename(path)
        yield path
    finally:
        for left in (unnamed, path):
            shutil.rmtree(left, ignore_errors=True)
        os.close(lock)


def remove_orphans(paths: Iterable[Path]) -> None:
    """Removes those whose process has died. What can't be locked, as on some network file systems, or not removed, stays."""
    for path in paths:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        if _lock(lock):
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
