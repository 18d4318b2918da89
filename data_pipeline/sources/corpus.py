"""Several sources as one."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.sources.protocol import Source


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of several sources, one source after the other; empty documents are left out. It is a Source itself."""

    sources: tuple[Source, ...]

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            yield from filter(None, source)
