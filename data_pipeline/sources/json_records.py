"""Records in JSON: one document each, in the field `text`."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from data_pipeline.errors import CorpusInvalid
from data_pipeline.sources.files import open_bytes, open_text, read_errors, stamp_of
from data_pipeline.sources.protocol import (
    BEGINNING,
    BYTE_ORDER_MARK,
    CHUNK_BYTES,
    ID_FIELD,
    TEXT_FIELD,
    Chunk,
    Document,
    Place,
    Stamp,
    cleaned,
    texts_in_chunks,
)

LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".ldjson")
SUFFIXES = (".json",)
_WHITE_SPACE = " \t\r\n"
_LONGEST_SNIFFED_CHARACTERS = 2**24


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """A chunk of a file with a record per line."""

    path: Path
    place: Place
    data: bytes = field(repr=False)
    share: float

    @property
    def size(self) -> int:
        return len(self.data)

    def documents(self) -> Iterator[Document]:
        encoding = "utf-8" if self.place.offset else "utf-8-sig"
        with read_errors(self.path), io.TextIOWrapper(io.BytesIO(self.data), encoding=encoding, newline="") as lines:
            yield from cleaned(self._records(lines))

    def _records(self, lines: Iterable[str]) -> Iterator[Document]:
        for number, line in enumerate(lines, start=self.place.number):
            if line.strip():
                yield _document_of(_decoded(line, self.path, number), number, where=f"{self.path}:{number}", each="line")


@dataclass(frozen=True, slots=True)
class JsonLinesFile:
    """A record per line; lines of white space are left out. May be packed."""

    path: Path

    def chunks(self, start: Place = BEGINNING) -> Iterator[Lines]:
        with open_bytes(self.path) as (content, share):
            _pass_over(content, start.offset)
            place = start
            for data in whole_lines(content):
                yield Lines(path=self.path, place=place, data=data, share=share())
                place = Place(offset=place.offset + len(data), number=place.number + _num_lines(data))

    def stamp(self) -> Stamp:
        return stamp_of(self.path)


@dataclass(frozen=True, slots=True)
class JsonFile:
    """Records in any arrangement: one per line, in a list, or one behind the other over as many lines as they take. May be packed."""

    path: Path

    def chunks(self, start: Place = BEGINNING) -> Iterator[Chunk]:
        if self._begins_with_a_whole_line():
            return JsonLinesFile(self.path).chunks(start)
        return texts_in_chunks(self._documents(), start)

    def stamp(self) -> Stamp:
        return stamp_of(self.path)

    def _documents(self) -> Iterator[tuple[Document, float]]:
        with open_text(self.path) as file:
            text = file.read()
        for number, (record, share) in enumerate(_records_in(text, self.path), start=1):
            yield _document_of(record, number, where=f"{self.path}: record {number}", each="record"), share

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


def whole_lines(content: IO[bytes]) -> Iterator[bytes]:
    """The content in chunks that end with a line; where one ends depends on nothing but where it begins."""
    rest = b""
    while True:
        blocks = [rest, content.read(CHUNK_BYTES - len(rest))]
        while b"\n" not in blocks[-1] and (more := content.read(CHUNK_BYTES)):
            blocks.append(more)
        data = b"".join(blocks)
        if not data:
            return
        end = data.rfind(b"\n") + 1 or len(data)
        yield data[:end]
        rest = data[end:]


def _num_lines(data: bytes) -> int:
    """Line ends: a carriage return alone is one too, as for Python."""
    alone = data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0
    return data.count(b"\n") + alone


def _pass_over(content: IO[bytes], num_bytes: int) -> None:
    """Packed data can't be sought in."""
    if content.seekable():
        content.seek(num_bytes)
        return
    while num_bytes > 0 and (data := content.read(min(num_bytes, CHUNK_BYTES))):
        num_bytes -= len(data)


def _records_in(text: str, path: Path) -> Iterator[tuple[Any, float]]:
    """Every value of the text, and every element of those that are lists; with which share of the text is read."""
    place = len(text) - len(text.lstrip(_WHITE_SPACE))
    while place < len(text):
        begin = place
        value, place = _decoded_at(text, begin, path)
        records = value if isinstance(value, list) else [value]
        for number, record in enumerate(records, start=1):
            yield record, (begin + (place - begin) * number / len(records)) / len(text)
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


def _document_of(record: Any, number: int, *, where: str, each: str) -> Document:
    text = record.get(TEXT_FIELD) if isinstance(record, dict) else None
    if not isinstance(text, str):
        aside = "" if each == "line" else ", or call a file of JSON which is text itself .txt"
        raise CorpusInvalid(f'{where}: no string in a field "{TEXT_FIELD}"; every {each} needs one{aside}')
    own_id = record.get(ID_FIELD)
    return Document(text=text, number=number, id=str(own_id) if isinstance(own_id, str | Decimal) else "")


def _reason(error: ValueError | RecursionError) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(getattr(error, "msg", error))


def _record_of(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; raises ValueError where it has two documents, of which one would be lost."""
    record = dict(fields)
    if len(record) < len(fields) and sum(key == TEXT_FIELD for key, _ in fields) > 1:
        raise ValueError(f'the field "{TEXT_FIELD}" is there twice')
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_record_of, parse_int=Decimal)
"""A number that is an id keeps its digits, and Python makes no int of some thousand of them."""
