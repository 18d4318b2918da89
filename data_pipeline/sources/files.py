"""What sources that are files have in common: unpacking, and errors that name the file."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pyarrow import ArrowException

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.protocol import Stamp
from data_pipeline.sources.unpack import PACKING_SUFFIXES, UNPACK_ERRORS, packing_of, unpacked

HEAD_BYTES = 2**13
"""How much of a file is looked at to tell its kind."""
_LONGEST_MAGIC_BYTES = 16


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A file of UTF-8 text, unpacked, without its byte order mark, line ends as they are. Raises CorpusInvalid."""
    with read_errors(path), _open_content(path) as (content, _), io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text:
        yield text


def head_of(path: Path) -> bytes:
    """The first bytes of a file's content, unpacked. Raises CorpusInvalid."""
    with read_errors(path), _open_content(path) as (content, _):
        return content.read(HEAD_BYTES)


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], float]]]:
    """A file's bytes, unpacked, and what tells which share of the file is read. Raises CorpusInvalid."""
    with read_errors(path), _open_content(path) as (content, file):
        size_bytes = os.fstat(file.fileno()).st_size
        yield content, lambda: min(1.0, file.tell() / (size_bytes or 1))


def stamp_of(path: Path) -> Stamp:
    """Raises CorpusInvalid."""
    with read_errors(path):
        status = path.stat()
    return Stamp(size_bytes=status.st_size, modified_ns=status.st_mtime_ns)


def is_packed(path: Path) -> bool:
    """Whether a file is packed, by its first bytes. Raises CorpusInvalid."""
    with read_errors(path), path.open("rb") as file:
        return packing_of(file.read(_LONGEST_MAGIC_BYTES)) != ""


def name_unpacked(path: Path) -> str:
    """A file's name in lower case, without what says how it is packed."""
    return path.stem.lower() if path.suffix.lower() in PACKING_SUFFIXES else path.name.lower()


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong within, while `path` is read, into CorpusInvalid."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusInvalid(f"{path}: not UTF-8 text; convert it, or keep it out of the corpus") from error
    except (OSError, ArrowException, *UNPACK_ERRORS) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0]
        raise CorpusInvalid(f"{path}: can't be read ({reason}); replace it, or keep it out of the corpus") from error


@contextmanager
def _open_content(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file's bytes, unpacked as its first bytes say, and the file; raises CorpusInvalid where its name says something else."""
    with path.open("rb") as file:
        packing = packing_of(file.read(_LONGEST_MAGIC_BYTES))
        file.seek(0)
        said = PACKING_SUFFIXES.get(path.suffix.lower(), packing)
        if said != packing:
            found = packing or "no packed data"
            raise CorpusInvalid(f"{path}: can't be read (named like {said}, but it is {found}); replace or rename it")
        if packing:
            with unpacked(file, packing) as content:
                yield content, file
        else:
            yield file, file
