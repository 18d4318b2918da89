"""How the ledger's lines lie on the store: in segments, which are compacted into one object whenever a checkpoint counts. No torch.

    ledger/a0001/000000201-000000225.jsonl  what steps 201 … 225 of attempt 1 did
    ledger-upto/a0001/000000100.jsonl       its steps 1 … 100
    ledger-upto/a0001/000000200.jsonl       and 101 … 200

The first line of a compacted object holds two digests: `follows`, the digest of the attempt's object before ("" for its first), and
`digest`, the SHA-256 of `follows` and of all lines below. So an object can be checked alone, and its digest stands for all that the attempt
did until then.

Segments are deleted once the object that holds their lines is durable. A crash between the two leaves both, and readers take a line once.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from data_pipeline.store.protocol import KeyMissing, ObjectStore
from orchestrator import codec
from orchestrator.records.keys import (
    COMPACTED_LEDGER,
    LEDGER,
    compacted_after,
    compacted_directory,
    compacted_key,
    compacted_of,
    ledger_directory,
    segment_of,
    segments_after,
)

NUM_PARALLEL_REQUESTS = 16
Line = tuple[str, bytes]
"""(key of the object that holds it, a record as JSON)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """The first line of a compacted object."""

    follows: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Compacted:
    """An object that took the place of segments."""

    key: str
    attempt: int
    last_step: int
    chain: Chain
    lines: tuple[bytes, ...]
    """The records, as the segments had them."""


def compact(store: ObjectStore, *, attempt: int, step: int) -> None:
    """Makes one object of the attempt's segments that end with `step` or earlier. May be repeated. Raises StoreError, codec.DecodeError.

    For the attempt's writer alone, once everything up to `step` is durable.
    """
    ends = {info.key: last_step for info in store.list(ledger_directory(attempt)) if (last_step := segment_at(info.key)[1]) <= step}
    if not ends:
        return
    before = _newest_compacted(store, attempt)
    with ThreadPoolExecutor(NUM_PARALLEL_REQUESTS) as pool:
        data = dict(zip(ends, pool.map(store.get, ends), strict=True))
        new = [key for key, last_step in ends.items() if before is None or last_step > before.last_step]
        if new:
            body = b"".join(data[key] for key in new)
            store.create(compacted_key(attempt, ends[new[-1]]), encode(body, follows=before.chain.digest if before else ""))
        held = set(before.lines) if before else set()
        left_behind = [key for key in ends if key not in new and held.issuperset(data[key].splitlines())]
        list(pool.map(store.delete, [*new, *left_behind]))


def read_lines(store: ObjectStore) -> dict[int, list[Line]]:
    """Every line of a run by attempt, in the order of writing. Raises codec.DecodeError where a part was changed or is missing.

    Segments are read first: what a run that goes on compacts meanwhile is then found in what took their place.
    """
    segments = read_all(store, LEDGER)
    by_attempt: dict[int, list[Compacted]] = {}
    for key, data in read_all(store, COMPACTED_LEDGER).items():
        one = decode(data, key)
        by_attempt.setdefault(one.attempt, []).append(one)
    lines: dict[int, list[Line]] = {}
    for attempt, compacted in by_attempt.items():
        _check_chain(compacted)
        lines[attempt] = [(one.key, line) for one in compacted for line in one.lines]
    for key, data in segments.items():
        attempt, last_step = segment_at(key)
        held = _lines_of_its_place(by_attempt.get(attempt, ()), last_step)
        lines.setdefault(attempt, []).extend((key, line) for line in data.splitlines() if line not in held)
    return lines


def read_newest_line(store: ObjectStore, attempt: int, *, since_step: int) -> list[Line]:
    """The attempt's last line in either form, found without listing what it wrote before `since_step`: none, one or two."""
    found: list[Line] = []
    for directory, after in (
        (ledger_directory(attempt), segments_after(attempt, since_step)),
        (compacted_directory(attempt), compacted_after(attempt, since_step)),
    ):
        keys = [info.key for info in store.list(directory, after=after)]
        data = _get_if_there(store, keys[-1]) if keys else None
        if data is not None:
            found.append((keys[-1], data.splitlines()[-1]))
    return found


def encode(body: bytes, *, follows: str) -> bytes:
    """The object that holds the lines `body` and follows the one of that digest."""
    return codec.to_json(Chain(follows=follows, digest=_digest(follows, body))) + b"\n" + body


def decode(data: bytes, key: str) -> Compacted:
    """Raises codec.DecodeError where the object is not what was written."""
    found = compacted_of(key)
    if found is None:
        raise codec.DecodeError(f"{key}: not a part of a ledger; remove it")
    attempt, last_step = found
    first, _, body = data.partition(b"\n")
    chain = codec.from_json(Chain, first, key)
    if chain.digest != _digest(chain.follows, body):
        raise codec.DecodeError(f"{key}: is not what was written, its digest differs; restore it from the bucket's versions or a backup")
    return Compacted(key=key, attempt=attempt, last_step=last_step, chain=chain, lines=tuple(body.splitlines()))


def _check_chain(compacted: Sequence[Compacted]) -> None:
    digest = ""
    for one in compacted:
        if one.chain.follows != digest:
            raise codec.DecodeError(f"{one.key}: what it follows is missing or another; restore it from the bucket's versions or a backup")
        digest = one.chain.digest


def _lines_of_its_place(compacted: Sequence[Compacted], last_step: int) -> Sequence[bytes]:
    """The lines of the object, of an attempt's, that took the place of the segment that ends with `last_step`; () where none did yet."""
    place = bisect.bisect_left(compacted, last_step, key=lambda one: one.last_step)
    return compacted[place].lines if place < len(compacted) else ()


def _newest_compacted(store: ObjectStore, attempt: int) -> Compacted | None:
    keys = [info.key for info in store.list(compacted_directory(attempt))]
    return decode(store.get(keys[-1]), keys[-1]) if keys else None


def read_all(store: ObjectStore, prefix: str, *, after: str = "", upto: str = "") -> dict[str, bytes]:
    """By key, in their order, behind `after` and up to `upto` where they are given; what was deleted since the listing is left out."""
    keys = [info.key for info in store.list(prefix, after=after) if not upto or info.key <= upto]
    with ThreadPoolExecutor(NUM_PARALLEL_REQUESTS) as pool:
        found = pool.map(lambda key: _get_if_there(store, key), keys)
        return {key: data for key, data in zip(keys, found, strict=True) if data is not None}


def _get_if_there(store: ObjectStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except KeyMissing:
        return None


def segment_at(key: str) -> tuple[int, int]:
    """(attempt, last step) of a segment. Raises codec.DecodeError for any other key."""
    found = segment_of(key)
    if found is None:
        raise codec.DecodeError(f"{key}: not a segment of a ledger; remove it")
    return found


def _digest(follows: str, body: bytes) -> str:
    return hashlib.sha256(follows.encode() + body).hexdigest()
