"""What sources that are files have in common: unpacking, and errors that name the file."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pyarrow import ArrowException, CompressedInputStream

from data_pipeline.errors import CorpusInvalid

_PACKINGS = {".gz": "gzip", ".zst": "zstd"}


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A file of UTF-8 text, line ends as they are, unpacked where its name ends with `.gz` or `.zst`. Raises CorpusInvalid.

    Arrow unpacks it, which reads every frame of a file and notices a truncated one; the usual zstd reader does neither.
    """
    packing = _PACKINGS.get(path.suffix)
    with read_errors(path):
        data: Any = CompressedInputStream(str(path), packing) if packing else path.open("rb")
        with data, io.TextIOWrapper(data, encoding="utf-8", newline="") as text:
            yield text


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong within, while `path` is read, into CorpusInvalid."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusInvalid(f"{path}: not UTF-8 text; convert it, or keep it out of the corpus") from error
    except (OSError, ArrowException) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0]
        raise CorpusInvalid(f"{path}: can't be read ({reason}); replace it, or keep it out of the corpus") from error
