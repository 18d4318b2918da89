"""A file of JSON lines: one document per line, in the field `text`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import open_text
from data_pipeline.sources.protocol import TEXT_FIELD

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")


@dataclass(frozen=True, slots=True)
class JsonLinesFile:
    """The field `text` of every line; lines of white space are left out. May be packed as `.gz` or `.zst`."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        with open_text(self.path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document_of(line, where=f"{self.path}:{number}")


def _document_of(line: str, *, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusInvalid(f"{where}: not a JSON object ({error.msg}); fix or remove this line") from error
    document = record.get(TEXT_FIELD) if isinstance(record, dict) else None
    if not isinstance(document, str):
        raise CorpusInvalid(f'{where}: no string in a field "{TEXT_FIELD}"; every line needs one')
    return document
