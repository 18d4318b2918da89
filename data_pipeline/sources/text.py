"""A file of plain text, as one document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.sources.files import open_text


@dataclass(frozen=True, slots=True)
class TextFile:
    """One document: the whole file, UTF-8, which may be packed as `.gz` or `.zst`."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        with open_text(self.path) as text:
            yield text.read()
