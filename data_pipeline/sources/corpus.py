"""The front door to raw documents: from a file or a directory to a corpus. The only list of the kinds of files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources import jsonl, parquet
from data_pipeline.sources.jsonl import JsonLinesFile
from data_pipeline.sources.parquet import ParquetFile
from data_pipeline.sources.protocol import Source
from data_pipeline.sources.text import TextFile

_KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], Source]], ...] = ((jsonl.SUFFIXES, JsonLinesFile), (parquet.SUFFIXES, ParquetFile))
"""(how the names of a kind's files end, the kind). A file of any other name is a TextFile."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of several sources, one source after the other; empty documents are left out. It is a Source itself."""

    sources: tuple[Source, ...]

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            yield from filter(None, source)


def find_corpus(path: Path) -> Corpus:
    """The documents of a file, or of every file below a directory but hidden ones, sorted. Raises CorpusInvalid where there is no file.

    The name tells the kind: `.jsonl` (also `.jsonl.gz`, `.jsonl.zst`, `.json.gz`, `.json.zst`) holds one document per line, `.parquet`
    one per row, in the field `text`. Any other file is one document of UTF-8 text, which may be packed as `.gz` or `.zst`.
    """
    if path.is_file():
        return Corpus((source_of(path),))
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
    if not files:
        raise CorpusInvalid(f"{path}: no such file, or a directory without files; give the corpus's file or directory")
    return Corpus(tuple(map(source_of, files)))


def source_of(file: Path) -> Source:
    """The documents of one file, whose name tells its kind."""
    for suffixes, kind in _KINDS:
        if file.name.endswith(suffixes):
            return kind(file)
    return TextFile(file)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
