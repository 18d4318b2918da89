"""The files of a corpus: all that a directory holds, links followed, and nothing left out without a word."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from data_pipeline.errors import CorpusInvalid

_Identity = tuple[int, int]
"""Device and inode: what two paths to one file or directory have in common."""


def corpus_files(path: Path, is_wanted: Callable[[Path], bool] = lambda file: True) -> list[Path]:
    """The file itself, or every file below the directory, sorted; what is hidden, and `__pycache__`, is left out.

    Links are followed, and what is reached twice is taken once, in a way that is wanted if there is one. Raises CorpusInvalid for what is
    there and can't be read; files that are not wanted, and links that lead to nothing, are left out then.
    """
    status = _status_of(path)
    if not S_ISDIR(status.st_mode):
        return [_checked(path, status)]
    found = sorted(_files_below(path, is_wanted), key=lambda one: (not is_wanted(one[0]), one[0]), reverse=True)
    first_way = {_identity(status): file for file, status in found}
    if not first_way:
        raise CorpusInvalid(f"{path}: no such file, or a directory without files; give the corpus's file or directory")
    return sorted(first_way.values())


def _files_below(root: Path, is_wanted: Callable[[Path], bool]) -> Iterator[tuple[Path, os.stat_result]]:
    seen: set[_Identity] = set()
    waiting = [root]
    while waiting:
        path = waiting.pop()
        try:
            status = _status_of(path)
            if not S_ISDIR(status.st_mode):
                yield _checked(path, status), status
                continue
        except CorpusInvalid:
            if is_wanted(path):
                raise
            continue
        if _identity(status) not in seen:
            seen.add(_identity(status))
            waiting += sorted(_children(path), reverse=True)


def _children(directory: Path) -> list[Path]:
    try:
        return [directory / name for name in os.listdir(directory) if not name.startswith(".") and name != "__pycache__"]
    except OSError as error:
        raise _unreadable(directory, error) from error


def _status_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        if os.path.islink(path):
            raise CorpusInvalid(f"{path}: a link that leads to nothing which can be read; mend or remove it") from error
        if isinstance(error, FileNotFoundError):
            raise CorpusInvalid(f"{path}: no such file, or a directory without files; give the corpus's file or directory") from error
        raise _unreadable(path, error) from error


def _checked(path: Path, status: os.stat_result) -> Path:
    """The path of a file which can be read as often as wanted; a pipe or device can't, and opening one may wait for ever."""
    if not S_ISREG(status.st_mode):
        raise CorpusInvalid(f"{path}: a pipe, socket or device, not a file; write what it gives into a file, or keep it out of the corpus")
    if not os.access(path, os.R_OK):
        raise CorpusInvalid(f"{path}: can't be read (Permission denied); give files that you may read, or keep it out of the corpus")
    return path


def _unreadable(path: Path, error: OSError | ValueError) -> CorpusInvalid:
    reason = getattr(error, "strerror", None) or error
    return CorpusInvalid(f"{path}: can't be read ({reason}); give what you may read, or keep it out of the corpus")


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino
