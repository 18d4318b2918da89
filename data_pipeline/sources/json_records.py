"""Records in JSON: one document each, in the field `text`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import open_text
from data_pipeline.sources.protocol import BYTE_ORDER_MARK, TEXT_FIELD

LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".ldjson")
SUFFIXES = (".json",)
_WHITE_SPACE = " \t\r\n"
_LONGEST_SNIFFED_CHARACTERS = 2**24


@dataclass(frozen=True, slots=True)
class JsonLinesFile:
    """A record per line; lines of white space are left out. May be packed."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        with open_text(self.path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document_of(_decoded(line, self.path, number), where=f"{self.path}:{number}", each="line")


@dataclass(frozen=True, slots=True)
class JsonFile:
    """Records in any arrangement: one per line, in a list, or one behind the other over as many lines as they take. May be packed."""

    path: Path

    def __iter__(self) -> Iterator[str]:
        if self._begins_with_a_whole_line():
            yield from JsonLinesFile(self.path)
            return
        with open_text(self.path) as file:
            text = file.read()
        for number, record in enumerate(_records_in(text, self.path), start=1):
            yield _document_of(record, where=f"{self.path}: record {number}", each="record")

    def _begins_with_a_whole_line(self) -> bool:
        """Whether the first line is a record by itself."""
        with open_text(self.path) as lines:
            first = next((line for line in lines if line.strip()), "")
        try:
            return isinstance(_DECODER.decode(first), dict)
        except (ValueError, RecursionError):
            return False


def begins_with_a_document(path: Path) -> bool:
    """Whether the file's first record, if it begins with one, has a document. Raises CorpusInvalid."""
    with open_text(path) as file:
        beginning = file.read(_LONGEST_SNIFFED_CHARACTERS)
    try:
        record, _ = _DECODER.raw_decode(beginning, beginning.index("{"))
    except (ValueError, RecursionError):
        return False
    return isinstance(record.get(TEXT_FIELD), str)


def _records_in(text: str, path: Path) -> Iterator[Any]:
    """Every value of the text, and every element of those that are lists."""
    place = len(text) - len(text.lstrip(_WHITE_SPACE))
    while place < len(text):
        value, place = _decoded_at(text, place, path)
        yield from value if isinstance(value, list) else [value]
        while text[place : place + 1] in _WHITE_SPACE and place < len(text):
            place += 1


def _decoded_at(text: str, place: int, path: Path) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        number = getattr(error, "lineno", text.count("\n", 0, place) + 1)
        raise CorpusInvalid(f"{path}:{number}: not JSON ({_reason(error)}); mend it, or keep this file out of the corpus") from error


def _decoded(line: str, path: Path, number: int) -> Any:
    try:
        return _DECODER.decode(line.removeprefix(BYTE_ORDER_MARK))  # files that were joined have one in their middle
    except (ValueError, RecursionError) as error:
        raise CorpusInvalid(f"{path}:{number}: not a JSON object ({_reason(error)}); fix or remove this line") from error


def _document_of(record: Any, *, where: str, each: str) -> str:
    document = record.get(TEXT_FIELD) if isinstance(record, dict) else None
    if not isinstance(document, str):
        aside = "" if each == "line" else ", or call a file of JSON which is text itself .txt"
        raise CorpusInvalid(f'{where}: no string in a field "{TEXT_FIELD}"; every {each} needs one{aside}')
    return document


def _reason(error: ValueError | RecursionError) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "msg", error))


def _record_of(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; raises ValueError where it has two documents, of which one would be lost."""
    record = dict(fields)
    if len(record) < len(fields) and sum(key == TEXT_FIELD for key, _ in fields) > 1:
        raise ValueError(f'the field "{TEXT_FIELD}" is there twice')
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_record_of, parse_int=float)
"""Nobody reads the numbers, and Python makes no int of some thousand digits."""
