"""The ledger's numbers as columns, so that a run of a million steps is read at once. No torch.

    ledger-series/a0001/000000000-000065000.columns   steps up to 65,000 of attempt 1
    ledger-series/a0001/000065000-000070000.columns   and those after them

The first line of an object is JSON: its columns and the SHA-256 of the rest, which is the columns, one after the other, in numpy's
little-endian types; of one whose values are all the same there is one. Who compacts the ledger writes them, and merges small ones into
larger ones, so that they stay few. They are derived: what none holds, or a damaged one, is read from the compacted lines, which stay.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.store.protocol import ObjectStore
from orchestrator import codec
from orchestrator.records import segments
from orchestrator.records.keys import (
    LEDGER,
    SERIES,
    compacted_after,
    compacted_directory,
    compacted_key,
    series_directory,
    series_key,
    series_of,
)

MAX_BYTES = 2**23
"""Of an object that others are merged into."""
STEP = "step"
Columns = Mapping[str, NDArray[Any]]
"""By name of a record's field, a value for each step."""
Defaults = Mapping[str, float]
"""The columns, each with what stands for it in a record that does not have it; its type is the column's."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    name: str
    dtype: str
    num_values: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The first line of an object."""

    num_steps: int
    columns: tuple[Column, ...]
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An object that holds the steps after `after` up to `last`."""

    key: str
    attempt: int
    after: int
    last: int
    size_bytes: int


def _in_turn(part: Part) -> tuple[int, int]:
    """To sort by: by where they begin, the widest first."""
    return part.after, -part.last


def extend(store: ObjectStore, defaults: Defaults, *, attempt: int) -> None:
    """Adds what the attempt's compacted objects have and its series has not. May be repeated. Raises StoreError, codec.DecodeError.

    For the attempt's writer alone, after it has compacted.
    """
    listed = [_part(info.key, info.size_bytes) for info in store.list(series_directory(attempt))]
    chain = _chain(listed)
    after = chain[-1].last if chain else 0
    new = segments.read_all(store, compacted_directory(attempt), after=compacted_after(attempt, after + 1))
    if not new:
        return
    compacted = [segments.decode(data, key) for key, data in new.items()]
    columns = columns_of([line for one in compacted for line in one.lines], defaults)
    data = encode(columns)
    while chain and chain[-1].size_bytes < 2 * len(data) <= 2 * (MAX_BYTES - chain[-1].size_bytes):
        try:
            columns = joined([decode(store.get(chain[-1].key), chain[-1].key, defaults), columns])
        except codec.DecodeError:
            break  # its steps are read from their lines
        data, after = encode(columns), chain.pop().after
    store.put(series_key(attempt, after, compacted[-1].last_step), data)
    for part in listed:
        if part not in chain:
            store.delete(part.key)


def read(store: ObjectStore, defaults: Defaults, *, last_attempt: int) -> dict[int, Columns]:
    """The columns of every attempt up to `last_attempt`, and of those begun since, that has records: steps ascend, each is there once.

    Raises StoreError, and codec.DecodeError where a line is not what was written. Segments are read first, so that what a run that goes on
    compacts meanwhile is found in what took their place.
    """
    late: dict[int, list[bytes]] = {}
    for key, data in segments.read_all(store, LEDGER).items():
        late.setdefault(segments.segment_at(key)[0], []).extend(data.splitlines())
    parts: dict[int, list[tuple[Part, bytes]]] = {}
    for key, data in segments.read_all(store, SERIES).items():
        part = _part(key, len(data))
        parts.setdefault(part.attempt, []).append((part, data))

    def read_attempt(attempt: int) -> Columns | None:
        found, last = _read_parts(store, parts.get(attempt, []), defaults, attempt=attempt)
        found += _read_lines(store, defaults, attempt=attempt, after=last)
        found += [columns_of(late[attempt], defaults)] if attempt in late else []
        return _in_order(joined(found)) if found else None

    with ThreadPoolExecutor(segments.NUM_PARALLEL_REQUESTS) as pool:
        attempts = range(1, max(last_attempt, *late, *parts, 0) + 1)
        return {attempt: one for attempt, one in zip(attempts, pool.map(read_attempt, attempts), strict=True) if one is not None}


def columns_of(lines: Sequence[bytes], defaults: Defaults) -> Columns:
    """The columns of records, as JSON lines. Raises codec.DecodeError."""
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
        return {name: _column((one.get(name, default) for one in records), default, len(records)) for name, default in defaults.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise codec.DecodeError(f"a ledger's lines from {lines[0][:40]!r} on are no records ({error})") from error


def joined(parts: Sequence[Columns]) -> Columns:
    """One behind the other; all have the same columns."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


def encode(columns: Columns) -> bytes:
    """The object that holds the columns."""
    packed = {name: _packed(values) for name, values in columns.items()}
    body = b"".join(values.tobytes() for values in packed.values())
    told = tuple(Column(name=name, dtype=values.dtype.str, num_values=len(values)) for name, values in packed.items())
    header = Header(num_steps=len(columns[STEP]), columns=told, digest=hashlib.sha256(body).hexdigest())
    return codec.to_json(header) + b"\n" + body


def decode(data: bytes, key: str, defaults: Defaults) -> Columns:
    """The columns of `defaults`, those that were not there yet when it was written with the default. Raises codec.DecodeError."""
    first, _, body = data.partition(b"\n")
    header = codec.from_json(Header, first, key)
    if header.digest != hashlib.sha256(body).hexdigest():
        raise codec.DecodeError(f"{key}: is not what was written, its digest differs")
    found, start = {}, 0
    for column in header.columns:
        values = np.frombuffer(body, dtype=column.dtype, count=column.num_values, offset=start)
        found[column.name] = np.broadcast_to(values, header.num_steps) if len(values) == 1 else values
        start += values.nbytes
    return {name: found.get(name, np.broadcast_to(_dtype(default).type(default), header.num_steps)) for name, default in defaults.items()}


def _dtype(default: float) -> np.dtype[Any]:
    return np.dtype("?" if isinstance(default, bool) else "<i8" if isinstance(default, int) else "<f8")


def _column(values: Iterable[Any], default: float, count: int) -> NDArray[Any]:
    return np.fromiter((default if value is None else value for value in values), dtype=_dtype(default), count=count)


def _packed(values: NDArray[Any]) -> NDArray[Any]:
    """One value, where all are the same."""
    is_constant = len(values) > 0 and np.array_equal(values, np.broadcast_to(values[0], len(values)), equal_nan=values.dtype.kind == "f")
    return values[:1] if is_constant else values


def _read_parts(store: ObjectStore, parts: Iterable[tuple[Part, bytes]], defaults: Defaults, *, attempt: int) -> tuple[list[Columns], int]:
    """What the attempt's objects hold, with the lines of what is missing between them; and up to which step that is."""
    found: list[Columns] = []
    last = 0
    for part, data in sorted(parts, key=lambda one: _in_turn(one[0])):
        if part.after < last:
            continue  # left behind by who merged it
        try:
            columns = decode(data, part.key, defaults)
        except codec.DecodeError as error:
            log.warning("%s; its steps are read from the ledger's lines, which takes longer", error)
            continue
        found += [*_read_lines(store, defaults, attempt=attempt, after=last, upto=part.after), columns]
        last = part.last
    return found, last


def _read_lines(store: ObjectStore, defaults: Defaults, *, attempt: int, after: int, upto: int | None = None) -> list[Columns]:
    """The attempt's compacted lines of the steps after `after`; `upto` is the last step of one of its objects."""
    if upto is not None and upto <= after:
        return []
    end = "" if upto is None else compacted_key(attempt, upto)
    found = segments.read_all(store, compacted_directory(attempt), after=compacted_after(attempt, after + 1), upto=end)
    return [columns_of(segments.decode(data, key).lines, defaults) for key, data in found.items()]


def _in_order(columns: Columns) -> Columns:
    """Each step once, the last that was written of it."""
    steps = columns[STEP]
    if (np.diff(steps) > 0).all():
        return columns
    _, places = np.unique(steps[::-1], return_index=True)
    return {name: values[len(steps) - 1 - places] for name, values in columns.items()}


def _chain(parts: Iterable[Part]) -> list[Part]:
    """Those that follow each other from the attempt's beginning on, the widest of several."""
    chain: list[Part] = []
    for part in sorted(parts, key=_in_turn):
        if part.after == (chain[-1].last if chain else 0):
            chain.append(part)
    return chain


def _part(key: str, size_bytes: int) -> Part:
    found = series_of(key)
    if found is None:
        raise codec.DecodeError(f"{key}: not a part of a ledger's series; remove it")
    return Part(key=key, attempt=found[0], after=found[1], last=found[2], size_bytes=size_bytes)
