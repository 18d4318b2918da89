"""An event log on the object store: numbered entries, each created only if absent, so that no number is ever written twice.

    journal/000000000001.json      one entry
    journal-upto/000000000500.json  entries 1 … 500 in one object, so that a long log is read quickly

What the events are is the caller's affair: `kinds` maps the name of each kind, as the entries have it, to its dataclass. So is what was
decided because of an event, which its entry may carry. Appending is what decides who controls: of two controllers that both believe they
do, the second one to write an entry loses, reads whose entry it was, and steps down.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from data_pipeline.store.protocol import KeyExists, ObjectStore, StoreError
from orchestrator import codec
from orchestrator.errors import JournalBroken, Superseded
from orchestrator.records.keys import JOURNAL, JOURNAL_SUMMARIES, journal_key, journal_summary_key

SUMMARY_EVERY = 500
NUM_PARALLEL_READS = 16
E = TypeVar("E")
Kinds = Mapping[str, type[E]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Generic[E]):
    sequence: int
    writer: str
    event: E
    decided: dict[str, Any] | None = None
    """JSON's own types; None where the entry says nothing of it."""


def read_journal(store: ObjectStore, kinds: Kinds[E]) -> list[Entry[E]]:
    """Every entry, in order. An empty list where there is no journal. Raises JournalBroken."""
    summaries = store.list(JOURNAL_SUMMARIES)
    entries = [_entry(plain, kinds, summaries[-1].key) for plain in _load(store, summaries[-1].key)] if summaries else []
    after = journal_key(len(entries)) if entries else ""
    keys = [info.key for info in store.list(JOURNAL, after=after)]
    with ThreadPoolExecutor(NUM_PARALLEL_READS) as pool:
        entries.extend(pool.map(lambda key: _entry(_load(store, key), kinds, key), keys))
    for expected, entry in enumerate(entries, start=1):
        if entry.sequence != expected:
            raise JournalBroken(
                f"{store.url(journal_key(expected))} is missing while later entries exist; restore it from the bucket's versions or backup"
            )
    return entries


class Journal(Generic[E]):
    """One controller's writing end. Make it with `open_journal` or `new_journal`."""

    def __init__(self, store: ObjectStore, kinds: Kinds[E], *, writer: str, entries: list[Entry[E]]) -> None:
        self._store = store
        self._kinds = kinds
        self._writer = writer
        self._entries = entries

    @property
    def entries(self) -> list[Entry[E]]:
        return list(self._entries)

    def reopen(self) -> Journal[E]:
        """The same writer's end of the journal as it stands now, other writers' entries included. Raises JournalBroken."""
        return open_journal(self._store, self._kinds, self._writer)

    def append(self, event: E, decided: dict[str, Any] | None = None) -> None:
        """Returns once the event is durable.

        Raises Superseded when another writer has written since, and StoreUnavailable when it is unknown whether the event was
        written: append the same event again.
        """
        sequence = len(self._entries) + 1
        entry = Entry(sequence=sequence, writer=self._writer, event=event, decided=decided)
        try:
            self._store.create(journal_key(sequence), _encode(entry))
        except KeyExists as error:
            other = _entry(_load(self._store, journal_key(sequence)), self._kinds, journal_key(sequence))
            if other.writer != self._writer:
                raise Superseded(f"journal entry {sequence} was written by controller {other.writer}", writer=other.writer) from error
            if other.event != event:
                raise JournalBroken(f"journal entry {sequence} holds another event of this very controller") from error
        self._entries.append(entry)
        if sequence % SUMMARY_EVERY == 0:
            self._summarise(sequence)

    def _summarise(self, sequence: int) -> None:
        try:
            self._store.put(journal_summary_key(sequence), json.dumps([_plain(entry) for entry in self._entries]).encode())
        except StoreError as error:
            log.warning("no summary of the journal's first %d entries, reading it takes longer: %s", sequence, error)


def open_journal(store: ObjectStore, kinds: Kinds[E], writer: str | None = None) -> Journal[E]:
    """The journal as it stands, for appending as `writer` (default: a new unique name). Raises JournalBroken."""
    return Journal(store, kinds, writer=writer or uuid.uuid4().hex, entries=read_journal(store, kinds))


def new_journal(store: ObjectStore, kinds: Kinds[E]) -> Journal[E]:
    """A journal without entries yet: appending to it raises Superseded where there is one already."""
    return Journal(store, kinds, writer=uuid.uuid4().hex, entries=[])


def _plain(entry: Entry[E]) -> dict[str, Any]:
    decided = {} if entry.decided is None else {"decided": entry.decided}
    event = {"kind": type(entry.event).__name__, "event": codec.to_plain(entry.event)}
    return {"sequence": entry.sequence, "writer": entry.writer, **event, **decided}


def _encode(entry: Entry[E]) -> bytes:
    return json.dumps(_plain(entry), sort_keys=True).encode()


def _load(store: ObjectStore, key: str) -> Any:
    try:
        return json.loads(store.get(key))
    except ValueError as error:
        raise JournalBroken(f"{store.url(key)} is not JSON; restore it from the bucket's versions or a backup") from error


def _entry(plain: Any, kinds: Kinds[E], key: str) -> Entry[E]:
    try:
        kind = kinds[plain["kind"]]
        event = codec.from_plain(kind, plain["event"], key, ignore_unknown="decided" in plain)
        return Entry(sequence=plain["sequence"], writer=plain["writer"], event=event, decided=plain.get("decided"))
    except (KeyError, TypeError, codec.DecodeError) as error:
        raise JournalBroken(f"{key} is no entry that this version of braid knows ({error}); use the version that wrote it") from error
