"""Raw text: files of UTF-8 text, JSON lines and Parquet, as a stream of documents that can be read more than once."""

import io
import json
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pyarrow import ArrowException, CompressedInputStream, parquet

from data_pipeline.errors import CorpusInvalid

TEXT_FIELD = "text"
"""The JSON field or Parquet column that holds a document."""
STDLIB_MAX_BYTES = 6_000_000
_PACKINGS = {".gz": "gzip", ".zst": "zstd"}
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
_STDLIB_EXCLUDED = {"__pycache__", "dist-packages", "idle_test", "lib2to3", "site-packages", "test", "tests"}


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of some files, in order; empty ones are left out. Iterating raises CorpusInvalid where a file can't be read."""

    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[str]:
        for file in self.files:
            with _read_errors(file):
                yield from filter(None, _documents_of(file))


def find_corpus(path: Path) -> Corpus:
    """A file, or every file below a directory but hidden ones, sorted. Raises CorpusInvalid where there is none.

    By name: `.jsonl` (also `.jsonl.gz`, `.jsonl.zst`, `.json.gz`, `.json.zst`) holds one document per line, `.parquet` one per row,
    in the field `text`. Anything else is one document of UTF-8 text, which may be compressed as `.gz` or `.zst`.
    """
    if path.is_file():
        return Corpus((path,))
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path))))
    if not files:
        raise CorpusInvalid(f"{path}: no such file, or a directory without files; give the corpus's file or directory")
    return Corpus(files)


def stdlib_corpus(max_bytes: int = STDLIB_MAX_BYTES) -> Corpus:
    """The source of Python's own standard library without its tests: sorted by name, at most `max_bytes` in all."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    size_bytes = 0
    for file in sorted(_stdlib_files(root)):
        size_bytes += file.stat().st_size
        if size_bytes > max_bytes:
            break
        files.append(file)
    if not files:
        raise CorpusInvalid(f"{root}: no source of the standard library here; name another corpus with --corpus")
    return Corpus(tuple(files))


def _stdlib_files(root: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _STDLIB_EXCLUDED]
        yield from (Path(directory, name) for name in names if name.endswith(".py"))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _documents_of(file: Path) -> Iterator[str]:
    if file.name.endswith(_JSON_SUFFIXES):
        yield from _json_documents(file)
    elif file.suffix == ".parquet":
        yield from _parquet_documents(file)
    else:
        with _open(file) as text:
            yield text.read()


def _json_documents(file: Path) -> Iterator[str]:
    with _open(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusInvalid(f"{file}:{number}: not a JSON object ({error.msg}); fix or remove this line") from error
            document = record.get(TEXT_FIELD) if isinstance(record, dict) else None
            if not isinstance(document, str):
                raise CorpusInvalid(f'{file}:{number}: no string in a field "{TEXT_FIELD}"; every line needs one')
            yield document


def _parquet_documents(file: Path) -> Iterator[str]:
    with parquet.ParquetFile(file) as table:
        if TEXT_FIELD not in table.schema_arrow.names:
            raise CorpusInvalid(
                f'{file}: no column "{TEXT_FIELD}" among {", ".join(table.schema_arrow.names)}; rename the one with the documents'
            )
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=[TEXT_FIELD]):
            for document in batch.column(0).to_pylist():
                number += 1
                if not isinstance(document, str):
                    raise CorpusInvalid(f'{file}: row {number}: no string in the column "{TEXT_FIELD}"; every row needs one')
                yield document


@contextmanager
def _open(file: Path) -> Iterator[IO[str]]:
    """Unpacked by Arrow, which reads every frame of a file and notices a truncated one; the usual zstd reader does not."""
    packing = _PACKINGS.get(file.suffix)
    data: Any = CompressedInputStream(str(file), packing) if packing else file.open("rb")
    with data, io.TextIOWrapper(data, encoding="utf-8", newline="") as text:
        yield text


@contextmanager
def _read_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise CorpusInvalid(f"{file}: not UTF-8 text; convert it, or keep it out of the corpus") from error
    except (OSError, ArrowException) as error:
        reason = str(getattr(error, "strerror", None) or error).partition("\n")[0]
        raise CorpusInvalid(f"{file}: can't be read ({reason}); replace it, or keep it out of the corpus") from error
