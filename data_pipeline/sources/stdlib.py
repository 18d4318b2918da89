"""The Python standard library's own source: a corpus that every machine has."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.corpus import Corpus, corpus_file
from data_pipeline.sources.text import TextFile

STDLIB_MAX_BYTES = 6_000_000
_EXCLUDED = {"__pycache__", "dist-packages", "idle_test", "lib2to3", "site-packages", "test", "tests"}


def stdlib_corpus(max_bytes: int = STDLIB_MAX_BYTES) -> Corpus:
    """The standard library's modules without its tests, sorted by name, at most `max_bytes` in all. Raises CorpusInvalid."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    size_bytes = 0
    for file in sorted(_modules_below(root)):
        size_bytes += file.stat().st_size
        if size_bytes > max_bytes:
            break
        files.append(file)
    if not files:
        raise CorpusInvalid(f"{root}: no source of the standard library here; name another corpus with --corpus")
    return Corpus(tuple(corpus_file(TextFile(file), file.relative_to(root).as_posix()) for file in files))


def _modules_below(root: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _EXCLUDED]
        yield from (Path(directory, name) for name in names if name.endswith(".py"))
