"""Several sources as one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.sources.protocol import BYTE_ORDER_MARK, Source

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can write and UTF-8 can't."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents of several sources, one source after the other; those without text are left out. It is a Source itself.

    No document begins with a byte order mark, and U+FFFD stands for half characters, as is usual.
    """

    sources: tuple[Source, ...]

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            for document in source:
                text = document.removeprefix(BYTE_ORDER_MARK)
                if text and not text.isspace():
                    yield _LONE_SURROGATE.sub("\ufffd", text)
