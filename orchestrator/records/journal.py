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

from data_pipeline.store.protocol import KeyExists, KeyMissing, ObjectStore, StoreError
from orchestrator import codec
from orchestrator.errors import JournalBroken, Superseded
from orchestrator.records.keys import JOURNAL, JOURNAL_SUMMARIES, journal_key, journal_sequence, journal_summary_key

SUMMARY_EVERY = 500
NUM_PARALLEL_READS = 16
ENDED = {"is": "ended"}
"""How an entry says that the run has ended: `changes` of `Stage.ENDED`."""
NOTHING: dict[str, Any] = {}
E = TypeVar("E")
Kinds = Mapping[str, type[E]]
log = logging.getLogger(__name__)


RESTORE = "restore it from the bucket's versions or a backup, or let `braid repair RUN` go on without it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """Stands where an entry was lost; of a kind that every journal has."""

    at_s: float


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
            raise JournalBroken(f"{store.url(journal_key(expected))} is missing while later entries exist; {RESTORE}")
    return entries


def ended_at_s(store: ObjectStore) -> float | None:
    """When the run of this journal ended, by the store's clock; None while it goes on, and where there is none. Raises JournalBroken."""
    entries = store.list(JOURNAL)
    decided = _load(store, entries[-1].key).get("decided") if entries else None
    return entries[-1].modified_at_s if decided and decided.get("stage") == ENDED else None


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
        """Returns once the event is durable. Raises JournalBroken where the entry before it is not there any more.

        Raises Superseded when another writer has written since, and StoreUnavailable when it is unknown whether the event was
        written: append the same event again.
        """
        sequence = len(self._entries) + 1
        entry = Entry(sequence=sequence, writer=self._writer, event=event, decided=decided)
        self._check_last()
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
            try:
                self.summarise()
            except StoreError as error:
                log.warning("no summary of the journal's first %d entries, reading it takes longer: %s", sequence, error)

    def _check_last(self) -> None:
        if not self._entries:
            return
        last, url = self._entries[-1], self._store.url(journal_key(len(self._entries)))
        if isinstance(last.event, Lost):
            return  # there may be something that can't be read
        try:
            found = _load(self._store, journal_key(last.sequence))
        except KeyMissing as error:
            raise JournalBroken(f"{url} is missing, so nothing may follow it; is this the store that it was written to?") from error
        if found.get("writer") != last.writer:
            raise JournalBroken(f"{url} is of another journal, so nothing of this one may follow it")

    def summarise(self) -> None:
        """Puts all entries into one object, which is read instead of them. Raises StoreError."""
        self._store.put(journal_summary_key(len(self._entries)), json.dumps([_plain(entry) for entry in self._entries]).encode())


def open_journal(store: ObjectStore, kinds: Kinds[E], writer: str | None = None) -> Journal[E]:
    """The journal as it stands, for appending as `writer` (default: a new unique name). Raises JournalBroken."""
    return Journal(store, kinds, writer=writer or uuid.uuid4().hex, entries=read_journal(store, kinds))


def new_journal(store: ObjectStore, kinds: Kinds[E]) -> Journal[E]:
    """A journal without entries yet: appending to it raises Superseded where there is one already."""
    return Journal(store, kinds, writer=uuid.uuid4().hex, entries=[])


@dataclass(frozen=True, kw_only=True, slots=True)
class Salvage(Generic[E]):
    """What can be read of a journal."""

    entries: dict[int, Entry[E]]
    missing: tuple[int, ...]
    unreadable: tuple[int, ...]
    broken_summary: str
    """Key of the newest summary, where it can't be read; else empty."""

    @property
    def lost(self) -> tuple[int, ...]:
        return tuple(sorted((*self.missing, *self.unreadable)))

    @property
    def last(self) -> int:
        return max((*self.entries, *self.lost), default=0)


def salvage_journal(store: ObjectStore, kinds: Kinds[E]) -> Salvage[E]:
    """Reads on where `read_journal` gives up. Raises JournalBroken for what another version wrote, which is not lost."""
    entries: dict[int, Entry[E]] = {}
    broken = ""
    for info in reversed(store.list(JOURNAL_SUMMARIES)):
        if (plain := _json_of(store, info.key)) is not None:
            entries = {entry.sequence: entry for entry in (_entry(one, kinds, info.key) for one in plain)}
            break
        broken = broken or info.key
    unreadable = []
    for info in store.list(JOURNAL, after=journal_key(len(entries)) if entries else ""):
        if (number := journal_sequence(info.key)) is None:
            continue
        if (plain := _json_of(store, info.key)) is None:
            unreadable.append(number)
        else:
            entries[number] = _entry(plain, kinds, info.key)
    last = max((*entries, *unreadable), default=0)
    missing = set(range(1, last + 1)) - set(entries) - set(unreadable)
    return Salvage(entries=entries, missing=tuple(sorted(missing)), unreadable=tuple(unreadable), broken_summary=broken)


def fill_journal(store: ObjectStore, kinds: Kinds[E], found: Salvage[E], *, at_s: float) -> Journal[Any]:
    """Writes `Lost` where an entry is missing, and has it where one can't be read: `summarise` after the next entry. Raises Superseded."""
    entries: list[Entry[Any]] = []
    writer = uuid.uuid4().hex
    for number in range(1, found.last + 1):
        if number in found.entries:
            entries.append(found.entries[number])
            continue
        follower = next((found.entries[later] for later in range(number, found.last + 1) if later in found.entries), None)
        decided = None if follower is not None and follower.decided is None else NOTHING
        entries.append(Entry(sequence=number, writer=writer, event=Lost(at_s=at_s), decided=decided))
        if number in found.missing:
            try:
                store.create(journal_key(number), _encode(entries[-1]))
            except KeyExists as error:
                raise Superseded(f"journal entry {number} has just been written by somebody else") from error
    return Journal(store, kinds, writer=writer, entries=entries)


def _json_of(store: ObjectStore, key: str) -> Any | None:
    try:
        plain = codec.load_json(store.get(key))
    except ValueError:
        return None
    return plain if isinstance(plain, dict | list) and plain else None


def _plain(entry: Entry[E]) -> dict[str, Any]:
    decided = {} if entry.decided is None else {"decided": entry.decided}
    event = {"kind": type(entry.event).__name__, "event": codec.to_plain(entry.event)}
    return {"sequence": entry.sequence, "writer": entry.writer, **event, **decided}


def _encode(entry: Entry[E]) -> bytes:
    return json.dumps(_plain(entry), sort_keys=True).encode()


def _load(store: ObjectStore, key: str) -> Any:
    try:
        return codec.load_json(store.get(key))
    except ValueError as error:
        raise JournalBroken(f"{store.url(key)} is not JSON; {RESTORE}") from error


def _entry(plain: Any, kinds: Kinds[E], key: str) -> Entry[E]:
    try:
        kind = kinds[plain["kind"]]
        event = codec.from_plain(kind, plain["event"], key, ignore_unknown="decided" in plain)
        return Entry(sequence=plain["sequence"], writer=plain["writer"], event=event, decided=plain.get("decided"))
    except (KeyError, TypeError, codec.DecodeError) as error:
        raise JournalBroken(f"{key} is no entry that this version of braid knows ({error}); use the version that wrote it") from error
