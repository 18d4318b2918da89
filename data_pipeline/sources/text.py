"""A file of plain text, as one document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import open_text, stamp_of
from data_pipeline.sources.protocol import BEGINNING, Document, Place, Stamp, Texts


@dataclass(frozen=True, slots=True)
class TextFile:
    """One document: the whole file, UTF-8, which may be packed."""

    path: Path

    def chunks(self, start: Place = BEGINNING) -> Iterator[Texts]:
        with open_text(self.path) as file:
            text = file.read()
        if "\0" in text:
            raise CorpusInvalid(f"{self.path}: has NUL bytes, so it is no text; convert or mend it, or keep it out of the corpus")
        yield Texts(place=start, size=len(text), share=1.0, read=(Document(text=text, number=1),))

    def stamp(self) -> Stamp:
        return stamp_of(self.path)
