"""The front door to raw documents: from a path to a corpus. The only list of the kinds of sources."""

from collections.abc import Callable
from pathlib import Path

from data_pipeline.sources import jsonl, parquet
from data_pipeline.sources.corpus import Corpus
from data_pipeline.sources.find import corpus_files
from data_pipeline.sources.jsonl import JsonLinesFile
from data_pipeline.sources.parquet import ParquetFile
from data_pipeline.sources.protocol import Source
from data_pipeline.sources.stdlib import stdlib_corpus
from data_pipeline.sources.text import TextFile

_KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], Source]], ...] = ((jsonl.SUFFIXES, JsonLinesFile), (parquet.SUFFIXES, ParquetFile))
"""(how the names of a kind's files end, the kind). A file of any other name is a TextFile."""


def open_corpus(path: Path | None) -> Corpus:
    """The documents of a file, or of every file below a directory as `find.py` finds them; for None the standard library's own source.

    A file's name tells its kind: `.jsonl` (also `.jsonl.gz`, `.jsonl.zst`, `.json.gz`, `.json.zst`) holds one document per line,
    `.parquet` one per row, in the field `text`. Any other file is one document of UTF-8 text, which may be packed as `.gz` or `.zst`.
    Raises CorpusInvalid where there is no file, or something that can't be read.
    """
    if path is None:
        return stdlib_corpus()
    return Corpus(tuple(map(source_of, corpus_files(path))))


def source_of(file: Path) -> Source:
    """The documents of one file, whose name tells its kind."""
    for suffixes, kind in _KINDS:
        if file.name.endswith(suffixes):
            return kind(file)
    return TextFile(file)
