"""Files that several processes of a node share: made once, by one of them, and never half there.

What is being made lies beside in a file of its own, whose lock its maker holds. A maker that was killed leaves that file without a lock:
the next one takes it over, and `remove_abandoned` removes those that nobody wants.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PART = ".part"


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What `path` holds, made and written where it is not there. Who waits for another to make it reads it afterwards.

    Raises what `make` raises, and OSError where the file can't be written or read.
    """
    while True:
        with suppress(FileNotFoundError):
            return path.read_bytes()
        with _part_of(path).open("ab") as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            if not _is_at(part.fileno(), _part_of(path)):
                continue  # another has made it meanwhile
            if path.exists():  # made before we began this one
                _part_of(path).unlink()
                continue
            try:
                data = make()
                part.truncate(0)
                part.write(data)
                part.flush()
            except BaseException:
                with suppress(OSError):
                    _part_of(path).unlink()
                raise
            _part_of(path).rename(path)
            return data


def remove_abandoned(part: Path) -> None:
    """Removes what a maker left that was killed; one that lives keeps its file."""
    with suppress(OSError), part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file.fileno(), part):
            part.unlink()


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that the path leads to now."""
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
