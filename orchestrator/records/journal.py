"""The run's event log on the object store: numbered entries, each created only if absent, so that no number is ever written twice.

    journal/000000000001.json      one entry
    journal-upto/000000000500.json  entries 1 … 500 in one object, so that a long log is read quickly

Appending is what decides who controls a run: of two controllers that both believe they do, the second one to write an entry loses, reads
whose entry it was, and steps down.
"""

from __future__ import annotations

import json
import logging
import typing
import uuid
from dataclasses import dataclass
from typing import Any

from data_pipeline.store.protocol import KeyExists, ObjectStore, StoreError
from orchestrator import codec
from orchestrator.control.state import Event

SNAPSHOT_EVERY = 500
log = logging.getLogger(__name__)
_KINDS: dict[str, Any] = {cls.__name__: cls for cls in typing.get_args(Event)}


class Superseded(Exception):
    """Another controller has written to this run's journal: step down."""


class JournalBroken(Exception):
    """Entries are missing or unreadable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    sequence: int
    writer: str
    event: Event


def read_journal(store: ObjectStore) -> list[Entry]:
    """Every entry, in order. An empty list where there is no journal."""
    snapshots = store.list("journal-upto/")
    entries = [_entry(plain, snapshots[-1].key) for plain in _load(store, snapshots[-1].key)] if snapshots else []
    after = _key(len(entries)) if entries else ""
    for info in store.list("journal/", after=after):
        entries.append(_entry(_load(store, info.key), info.key))
    for expected, entry in enumerate(entries, start=1):
        if entry.sequence != expected:
            raise JournalBroken(
                f"{store.url(_key(expected))} is missing while later entries exist; restore it from the bucket's versions or backup"
            )
    return entries


class Journal:
    """One controller's writing end. Make it with `open_journal`."""

    def __init__(self, store: ObjectStore, *, writer: str, entries: list[Entry]) -> None:
        self._store = store
        self._writer = writer
        self._entries = entries

    @property
    def events(self) -> list[Event]:
        return [entry.event for entry in self._entries]

    def reread(self) -> list[Event]:
        """The events as they stand in the store, other controllers' included."""
        return [entry.event for entry in read_journal(self._store)]

    def append(self, event: Event) -> None:
        """Returns once the event is durable.

        Raises Superseded when another controller has written since, and StoreUnavailable when it is unknown whether the event was
        written: append the same event again.
        """
        sequence = len(self._entries) + 1
        entry = Entry(sequence=sequence, writer=self._writer, event=event)
        try:
            self._store.create(_key(sequence), _encode(entry))
        except KeyExists as error:
            other = _entry(_load(self._store, _key(sequence)), _key(sequence))
            if other.writer != self._writer:
                raise Superseded(f"journal entry {sequence} was written by controller {other.writer}") from error
            if other.event != event:
                raise JournalBroken(f"journal entry {sequence} holds another event of this very controller") from error
        self._entries.append(entry)
        if sequence % SNAPSHOT_EVERY == 0:
            self._summarise(sequence)

    def _summarise(self, sequence: int) -> None:
        try:
            self._store.put(f"journal-upto/{sequence:012d}.json", json.dumps([_plain(entry) for entry in self._entries]).encode())
        except StoreError as error:
            log.warning("no summary of the journal's first %d entries, reading it takes longer: %s", sequence, error)


def open_journal(store: ObjectStore, writer: str | None = None) -> Journal:
    """The journal as it stands, for appending as `writer` (default: a new unique name)."""
    return Journal(store, writer=writer or uuid.uuid4().hex, entries=read_journal(store))


def _key(sequence: int) -> str:
    return f"journal/{sequence:012d}.json"


def _plain(entry: Entry) -> dict[str, Any]:
    return {"sequence": entry.sequence, "writer": entry.writer, "kind": type(entry.event).__name__, "event": codec.to_plain(entry.event)}


def _encode(entry: Entry) -> bytes:
    return json.dumps(_plain(entry), sort_keys=True).encode()


def _load(store: ObjectStore, key: str) -> Any:
    try:
        return json.loads(store.get(key))
    except ValueError as error:
        raise JournalBroken(f"{store.url(key)} is not JSON; restore it from the bucket's versions or a backup") from error


def _entry(plain: Any, key: str) -> Entry:
    try:
        kind = _KINDS[plain["kind"]]
        return Entry(sequence=plain["sequence"], writer=plain["writer"], event=codec.from_plain(kind, plain["event"], key))
    except (KeyError, TypeError, codec.DecodeError) as error:
        raise JournalBroken(f"{key} is no entry that this version of braid knows ({error}); use the version that wrote it") from error
