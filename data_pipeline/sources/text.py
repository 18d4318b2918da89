"""A file of plain text, as one document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import open_text


@dataclass(frozen=True, slots=True)
class TextFile:
    """One document: the whole file, UTF-8, which may be packed."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        with open_text(self.path) as file:
            text = file.read()
        if "\0" in text:
            raise CorpusInvalid(f"{self.path}: has NUL bytes, so it is no text; convert or mend it, or keep it out of the corpus")
        yield text
