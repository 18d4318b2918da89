"""A small dataset that is built from text."""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from data_pipeline.dataset.batches import Encode, encode_here
from data_pipeline.dataset.build import build_dataset
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.progress import ProgressCallback
from data_pipeline.sources.corpus import Corpus, corpus_file
from data_pipeline.sources.protocol import BEGINNING, Chunk, Document, Place, Stamp
from data_pipeline.store.protocol import ObjectStore

DOCUMENTS = [f"def function_{number}(argument):\n    return argument + {number}\n" for number in range(40)]


@dataclass(frozen=True, slots=True)
class OneDocument:
    """A chunk, whose documents are taken as they are."""

    place: Place
    text: str
    share: float

    @property
    def size(self) -> int:
        return len(self.text)

    def documents(self) -> Iterator[Document]:
        yield Document(text=self.text, number=self.place.number)


@dataclass(frozen=True, slots=True)
class Listed:
    """A source of documents that are there already."""

    texts: tuple[str, ...]

    def chunks(self, start: Place = BEGINNING) -> Iterator[OneDocument]:
        for number in range(start.number, 1 + len(self.texts)):
            yield OneDocument(Place(number=number), self.texts[number - 1], number / len(self.texts))

    def stamp(self) -> Stamp:
        return Stamp(size_bytes=sum(map(len, self.texts)), modified_ns=0)


@dataclass(frozen=True, slots=True)
class KillsOnce:
    """A chunk that kills the first process that reads it."""

    chunk: Chunk
    killed: Path

    def documents(self) -> Iterator[Document]:
        if not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.chunk.documents()

    def __getattr__(self, name: str) -> object:
        return getattr(self.chunk, name)


def corpus_of(documents: Iterable[str]) -> Corpus:
    return Corpus((corpus_file(Listed(tuple(documents)), "listed"),))


def untold(_progress: object) -> None:
    """Nobody watches."""


def build(
    store: ObjectStore,
    tokenizer: Tokenizer,
    documents: Iterable[str] | Corpus = DOCUMENTS,
    name: str = "tiny",
    *,
    shard_size_tokens: int = 120,
    encode: Encode = encode_here,
    progress: ProgressCallback = untold,
) -> DatasetManifest:
    return build_dataset(
        store=store,
        name=name,
        corpus=documents if isinstance(documents, Corpus) else corpus_of(documents),
        tokenizer=tokenizer,
        shard_size_tokens=shard_size_tokens,
        encode=encode,
        progress=progress,
    )


def encoding_processes() -> list[int]:
    """Processes that encode for this one."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()  # of the main thread, which starts them
    return [int(pid) for pid in children if b"data_pipeline.dataset.worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
