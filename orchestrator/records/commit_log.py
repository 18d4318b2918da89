"""Which checkpoints of a run count: a numbered log on the run's store, each entry created only if absent. No torch.

    commits/000001.json   {"kind": "fence", "attempt": 1}
    commits/000002.json   {"kind": "commit", "attempt": 1, "step": 100, …}
    commits/000003.json   {"kind": "reject", "attempt": 1, "step": 100, …}
    commits/000004.json   {"kind": "trust", "attempt": 1, "step": 100, …}
    commits/000005.json   {"kind": "doubt", "attempt": 1, "step": 100, …}
    commits/000006.json   {"kind": "snapshot", "attempt": 1, "step": 130}

An attempt begins with a fence. A writer appends at the first number that it has not read; where another was faster it reads on, and a newer
attempt's fence ends it. So a worker of an older attempt, even one that was only frozen, can't write what a newer one reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from data_pipeline.store.protocol import KeyExists, KeyMissing, ObjectStore
from orchestrator import codec
from orchestrator.errors import Fenced, JournalBroken
from orchestrator.records.journal import RESTORE
from orchestrator.records.keys import COMMITS, commit_key, commit_number, repaired_commit_key

NUM_PARALLEL_READS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    attempt: int
    """Older attempts may append no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    attempt: int
    step: int
    manifest_key: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A later attempt found that a committed checkpoint does not verify."""

    attempt: int
    """The attempt that committed the checkpoint."""
    step: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """A person takes a Reject back: the checkpoint counts again."""

    attempt: int
    """The attempt that committed the checkpoint."""
    step: int
    reason: str
    """For people: who did it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """A later attempt, all on one node, could not read a committed checkpoint and passed it over: it is the file, or that host."""

    attempt: int
    """The attempt that committed the checkpoint."""
    step: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The attempt of the last fence goes on from what the workers of an earlier one left in memory. No checkpoint: it is gone with them."""

    attempt: int
    """The attempt that took the snapshot."""
    step: int


Entry = Fence | Commit | Reject | Trust | Doubt | Snapshot
NOTHING = Trust(attempt=0, step=0, reason="stands where an entry was lost")
"""There is no such checkpoint, so it changes nothing, and earlier versions read it."""
_KINDS: dict[str, Any] = {cls.__name__.lower(): cls for cls in (Fence, Commit, Reject, Trust, Doubt, Snapshot)}


def last_fence(entries: Sequence[Entry]) -> int:
    """The attempt that may append; 0 where none has begun."""
    return next((entry.attempt for entry in reversed(entries) if isinstance(entry, Fence)), 0)


class Counting:
    """Which checkpoints count after the entries added so far: committed by the attempt of the fence before them, and not rejected since.

    One that is trusted again counts as newer than those of its own or an earlier step, whoever committed them.
    One that is doubted counts until the attempt that passed it over commits: the run's history has then left it, as if it were rejected.
    Should that attempt end before, the next one looks at it again.
    """

    def __init__(self) -> None:
        self.attempt = 0
        """Of the last fence; 0 before any."""
        self._trusted: dict[tuple[int, int], Commit] = {}
        self._rejected: dict[tuple[int, int], Commit] = {}
        self.doubted: set[tuple[int, int]] = set()
        """(step, attempt) of what the attempt of the last fence passed over."""

    def add(self, entry: Entry) -> None:
        match entry:
            case Fence():
                self.attempt = entry.attempt
                self.doubted = set()
            case Commit() if entry.attempt == self.attempt:
                for name in sorted(self.doubted):
                    self._reject(name)
                self._rejected.pop(_name(entry), None)
                self._trusted[_name(entry)] = entry
            case Reject():
                self._reject(_name(entry))
            case Doubt():
                self.doubted.add(_name(entry))
            case Trust() if commit := self._rejected.pop(_name(entry), None):
                self.doubted.discard(_name(entry))
                newest_first = list(self.trusted)
                place = next((place for place, other in enumerate(newest_first) if other.step <= commit.step), len(newest_first))
                newest_first.insert(place, commit)
                self._trusted = {_name(one): one for one in reversed(newest_first)}

    @property
    def trusted(self) -> tuple[Commit, ...]:
        """Newest first."""
        return tuple(reversed(self._trusted.values()))

    @property
    def rejected(self) -> tuple[Commit, ...]:
        """What counted until it was rejected, or left because of a doubt, the last one first."""
        return tuple(reversed(self._rejected.values()))

    def _reject(self, name: tuple[int, int]) -> None:
        if commit := self._trusted.pop(name, None):
            self._rejected[name] = commit


def count(entries: Iterable[Entry]) -> Counting:
    """Which checkpoints count after all of `entries`."""
    counting = Counting()
    for entry in entries:
        counting.add(entry)
    return counting


def trusted_commits(entries: Iterable[Entry]) -> list[Commit]:
    """The checkpoints that count, newest first: see `Counting`."""
    return list(count(entries).trusted)


def _name(entry: Commit | Reject | Trust | Doubt) -> tuple[int, int]:
    """What tells a checkpoint from any other of its run."""
    return entry.step, entry.attempt


class CommitLog:
    """The log as last read, and its writing end. Make it with `open_commit_log`. For one thread at a time."""

    def __init__(self, store: ObjectStore, entries: list[Entry]) -> None:
        self._store = store
        self._entries = entries

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries)

    def trusted(self) -> list[Commit]:
        """See `trusted_commits`."""
        return trusted_commits(self._entries)

    def fence(self, attempt: int) -> None:
        """Begin `attempt`. Raises Fenced when it or a newer one has begun already: two processes may have chosen the same number."""
        while last_fence(self._entries) < attempt:
            if self._append(Fence(attempt=attempt)):
                return
        self._check(attempt)
        raise Fenced(f"attempt {attempt} of this run was begun by another process; this worker stops, start no second one beside it")

    def fence_next(self) -> int:
        """Begin the attempt after the last one and return its number; no other caller gets the same."""
        attempt = last_fence(self._entries) + 1
        while not self._append(Fence(attempt=attempt)):
            attempt = last_fence(self._entries) + 1
        return attempt

    def commit(self, commit: Commit) -> None:
        """Returns once the checkpoint counts. Raises Fenced."""
        self._append_as(commit.attempt, commit)

    def reject(self, commit: Commit, reason: str, *, attempt: int) -> None:
        """`attempt`, which runs now, found that the checkpoint of `commit` can't be used. Raises Fenced."""
        self._append_as(attempt, Reject(attempt=commit.attempt, step=commit.step, reason=reason))

    def doubt(self, commit: Commit, reason: str, *, attempt: int) -> None:
        """`attempt`, which runs now, passes the checkpoint of `commit` over. Raises Fenced."""
        self._append_as(attempt, Doubt(attempt=commit.attempt, step=commit.step, reason=reason))

    def go_on(self, attempt: int, *, snapshot: Snapshot) -> None:
        """`attempt`, which runs now, has loaded `snapshot`. Raises Fenced."""
        self._append_as(attempt, snapshot)

    def trust(self, commit: Commit, reason: str) -> None:
        """Takes back that the checkpoint of `commit` was rejected: a person's decision, whatever attempt runs."""
        while not self._append(Trust(attempt=commit.attempt, step=commit.step, reason=reason)):
            pass

    def check(self, attempt: int) -> None:
        """Reads what is new. Raises Fenced when an attempt newer than `attempt` has begun."""
        self._read_on()
        self._check(attempt)

    def _append_as(self, attempt: int, entry: Entry) -> None:
        self._check(attempt)
        while not self._append(entry):
            self._check(attempt)

    def _check(self, attempt: int) -> None:
        newest = last_fence(self._entries)
        if newest != attempt:
            raise Fenced(f"attempt {newest} of this run has begun; this worker belongs to attempt {attempt} and stops")

    def _append(self, entry: Entry) -> bool:
        """Whether the entry is in the log now. False, and the log read on, when another writer took the next number.

        An entry that is found there is ours, from an earlier try whose answer got lost; or another says the same, which serves as well. Not
        so a fence, for another process may have chosen the same attempt. Raises JournalBroken where the entry before it is gone.
        """
        number_read = len(self._entries)
        self._check_last()
        try:
            self._store.create(commit_key(number_read + 1), _encode(entry))
        except KeyExists:
            self._read_on()
            return entry in self._entries[number_read:] and not isinstance(entry, Fence)
        self._entries.append(entry)
        return True

    def _check_last(self) -> None:
        number = len(self._entries)
        if not number:
            return
        try:
            found = read_commit_entry(self._store, number)
        except KeyMissing as error:
            url = self._store.url(commit_key(number))
            raise JournalBroken(f"{url} is missing, so nothing may follow it; is this the store that it was written to?") from error
        if found != self._entries[-1]:
            raise JournalBroken(f"{self._store.url(commit_key(number))} is of another commit log, so nothing of this one may follow it")

    def _read_on(self) -> None:
        while True:
            try:
                self._entries.append(read_commit_entry(self._store, len(self._entries) + 1))
            except KeyMissing:
                return


def open_commit_log(store: ObjectStore) -> CommitLog:
    """The log of the run whose store this is, as it stands. Raises codec.DecodeError where an entry is missing or unreadable."""
    keys = [info.key for info in store.list(COMMITS)]
    for expected, key in enumerate(keys, start=1):
        if key != commit_key(expected):
            raise codec.DecodeError(f"{store.url(commit_key(expected))}: missing while later entries exist; {RESTORE}")
    with ThreadPoolExecutor(NUM_PARALLEL_READS) as pool:
        entries = list(pool.map(lambda number: read_commit_entry(store, number), range(1, len(keys) + 1)))
    return CommitLog(store, entries)


def read_commit_entry(store: ObjectStore, number: int) -> Entry:
    """Raises KeyMissing, and codec.DecodeError where it is unreadable and nothing was put in its place."""
    key = commit_key(number)
    data = store.get(key)
    try:
        return _decode(data, key)
    except codec.DecodeError:
        try:
            return _decode(store.get(repaired_commit_key(number)), key)
        except KeyMissing:
            pass
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitSalvage:
    """What can be read of a commit log."""

    entries: dict[int, Entry]
    missing: tuple[int, ...]
    unreadable: tuple[int, ...]


def salvage_commits(store: ObjectStore) -> CommitSalvage:
    """Reads on where `open_commit_log` gives up."""
    entries: dict[int, Entry] = {}
    unreadable = []
    for number in filter(None, (commit_number(info.key) for info in store.list(COMMITS))):
        try:
            entries[number] = read_commit_entry(store, number)
        except codec.DecodeError:
            unreadable.append(number)
    missing = set(range(1, max((*entries, *unreadable), default=0) + 1)) - set(entries) - set(unreadable)
    return CommitSalvage(entries=entries, missing=tuple(sorted(missing)), unreadable=tuple(unreadable))


def fill_commits(store: ObjectStore, found: CommitSalvage) -> CommitLog:
    """Writes an entry where one was lost: the fence that a later commit proves, else one that says nothing. Raises Fenced."""
    counting = Counting()
    for number in sorted({*found.entries, *found.missing, *found.unreadable}):
        entry = found.entries.get(number)
        if entry is None:
            later = (found.entries[other] for other in sorted(found.entries) if other > number)
            follower = next((one for one in later if isinstance(one, Fence | Commit)), None)
            is_fence = isinstance(follower, Commit) and follower.attempt != counting.attempt
            entry = Fence(attempt=follower.attempt) if is_fence and follower is not None else NOTHING
            try:
                store.create(commit_key(number) if number in found.missing else repaired_commit_key(number), _encode(entry))
            except KeyExists as error:
                raise Fenced(f"{store.url(commit_key(number))}: has just been written by somebody else; look again") from error
        counting.add(entry)
    return open_commit_log(store)


def _encode(entry: Entry) -> bytes:
    return json.dumps({"kind": type(entry).__name__.lower(), **codec.to_plain(entry)}, sort_keys=True).encode()


def _decode(data: bytes, key: str) -> Entry:
    try:
        plain = codec.load_json(data)
        kind = _KINDS[plain.pop("kind")]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise codec.DecodeError(f"{key}: not an entry of a commit log; written by another version of braid?") from error
    entry: Entry = codec.from_plain(kind, plain, key)
    return entry
