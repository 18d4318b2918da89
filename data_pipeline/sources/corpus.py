"""Several sources as one, in batches: what is tokenized at once, cut by nothing but the text."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.protocol import BEGINNING, Chunk, Document, Place, Source, Stamp

BATCH_BYTES = 2**20
"""A batch ends with the chunk that makes it this large: some tenth of a second's work, and little memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFile:
    """One source of a corpus."""

    name: str
    """Below the corpus's directory, for people."""
    source: Source
    stamp: Stamp
    """Of the moment when the corpus was opened."""


def corpus_file(source: Source, name: str) -> CorpusFile:
    """Raises CorpusInvalid where it is gone."""
    return CorpusFile(name=name, source=source, stamp=source.stamp())


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A place between two documents of a corpus: behind the first `skip` of the chunk at `place` of a file."""

    file: int = 0
    place: Place = BEGINNING
    skip: int = 0


START = Start()


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A chunk in a batch."""

    file: int
    """Number of its file in the corpus, from 0."""
    name: str
    chunk: Chunk
    skip: int
    """Documents at its beginning that are not wanted."""
    read_bytes: int
    """Of all files of the corpus, as they lie there, up to where it ends."""

    def documents(self) -> Iterator[Document]:
        for number, document in enumerate(self.chunk.documents()):
            if number >= self.skip:
                yield document


Batch = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of several sources, one source after the other; those without text are left out."""

    files: tuple[CorpusFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of all files, as they lie there."""
        return sum(file.stamp.size_bytes for file in self.files)

    def __iter__(self) -> Iterator[str]:
        """The text of each document."""
        for part in self.parts():
            yield from (document.text for document in part.documents())

    def batches(self, start: Start = START) -> Iterator[Batch]:
        """Everything behind `start`. Raises CorpusInvalid."""
        batch: list[Part] = []
        size = 0
        for part in self.parts(start):
            batch.append(part)
            size += part.chunk.size
            if size >= BATCH_BYTES:
                yield tuple(batch)
                batch, size = [], 0
        if batch:
            yield tuple(batch)

    def parts(self, start: Start = START) -> Iterator[Part]:
        """Every chunk behind `start`. Raises CorpusInvalid, also for a file that is not what it was when the corpus was opened."""
        begin, skip = start.place, start.skip
        read_bytes = sum(file.stamp.size_bytes for file in self.files[: start.file])
        for number, file in enumerate(self.files[start.file :], start.file):
            for chunk in file.source.chunks(begin):
                so_far = read_bytes + int(chunk.share * file.stamp.size_bytes)
                yield Part(file=number, name=file.name, chunk=chunk, skip=skip, read_bytes=so_far)
                skip = 0
            if file.source.stamp() != file.stamp:
                raise CorpusInvalid(f"{file.name}: changed while it was read; build again when nothing writes to it any more")
            read_bytes += file.stamp.size_bytes
            begin, skip = BEGINNING, 0
