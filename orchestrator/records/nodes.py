"""What is known of the machines under a storage root, shared by every run: cordons, and the faults that were held against them.

    nodes/journal/000000000001.json     an event each, in the journal's form; any run and any person may append

A machine is named by what stays when its raylet restarts: see `ray_backend`. No torch.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.store.protocol import ObjectStore
from orchestrator.errors import Superseded
from orchestrator.records.journal import Entry, Lost, open_journal, read_journal
from orchestrator.records.keys import JOURNAL, journal_key, store_of_nodes


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a run holds against a machine because of one failure. Cordon and strikes are recorded once each for an attempt."""

    at_s: float
    machine: str
    run: str
    attempt: int
    cause: str
    """Value of the `control.causes.Cause`."""
    detail: str
    strikes: int
    cordons: bool = False
    """The machine is not to be used by any run until a person clears it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cordoned:
    """A person takes a machine out of use."""

    at_s: float
    machine: str
    reason: str
    by: str
    """Who: user@host."""
    within_s: float | None = None
    """How long runs that are on it may take to leave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """A person gives a machine back: no cordon and no strike against it counts any more."""

    at_s: float
    machine: str
    by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GpusSeen:
    """What GPUs a machine has, as a run's agent found them: they tell which machine it is where its name has changed."""

    at_s: float
    machine: str
    gpus: tuple[str, ...]
    """UUIDs of those that the run held there, in order."""


NodeEvent = Finding | Cordoned | Cleared | GpusSeen
NODE_EVENT_KINDS: dict[str, Any] = {cls.__name__: cls for cls in (*typing.get_args(NodeEvent), Lost)}
"""By the name that the journal has for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One machine, as all that was recorded of it leaves it."""

    cordoned: str = ""
    """Why no run may use it, in words; "" where any may."""
    within_s: float | None = None
    """How long a run that is on it may take to leave, where the one who cordoned it said so."""
    strikes: int = 0
    """Faults held against it by any run since it was last cleared, by their weight."""
    clears: int = 0
    """How often a person cleared it: what a run has held against it before counts no more."""


def standings(events: Iterable[NodeEvent]) -> dict[str, Standing]:
    """By machine, for every machine that the events name. One that has GPUs of a cordoned machine is that machine, under another name."""
    histories = by_machine(events)
    known = {machine: _standing(history) for machine, history in histories.items()}
    owners = {gpu: machine for machine, history in histories.items() if known[machine].cordoned for gpu in gpus_of(history)}
    for machine, history in histories.items():
        others = sorted({owners[gpu] for gpu in gpus_of(history) if gpu in owners} - {machine})
        if others and not known[machine].cordoned:
            known[machine] = replace(known[machine], cordoned=f"has GPUs of {others[0]}: {known[others[0]].cordoned}")
    return known


def gpus_of(history: Sequence[NodeEvent]) -> tuple[str, ...]:
    """The GPUs that were seen last in one machine; () where none were."""
    return next((event.gpus for event in reversed(history) if isinstance(event, GpusSeen)), ())


def by_machine(events: Iterable[NodeEvent]) -> dict[str, list[NodeEvent]]:
    """The events of each machine, in their order."""
    found: dict[str, list[NodeEvent]] = {}
    for event in events:
        found.setdefault(event.machine, []).append(event)
    return found


def since_cleared(history: Sequence[NodeEvent]) -> list[Finding | Cordoned]:
    """Of one machine's events, those that still count."""
    counted: list[Finding | Cordoned] = []
    for event in history:
        if isinstance(event, Cleared):
            counted = []
        elif not isinstance(event, GpusSeen):
            counted.append(event)
    return counted


def cordon_in(counted: Sequence[Finding | Cordoned]) -> Finding | Cordoned | None:
    """Of the events that still count, the one that keeps the machine out of use: a person's last word, else the first finding that does."""
    by_people = [event for event in counted if isinstance(event, Cordoned)]
    by_runs = [event for event in counted if isinstance(event, Finding) and event.cordons]
    return by_people[-1] if by_people else by_runs[0] if by_runs else None


def reason_of(cordon: Finding | Cordoned) -> str:
    """Why the machine is out of use, in words."""
    return cordon.reason if isinstance(cordon, Cordoned) else f"{cordon.cause}: {cordon.detail}"


def author_of(cordon: Finding | Cordoned) -> str:
    """Who took the machine out of use: a person, or a run."""
    return cordon.by if isinstance(cordon, Cordoned) else f"run {cordon.run}"


def _standing(history: Sequence[NodeEvent]) -> Standing:
    counted = since_cleared(history)
    cordon = cordon_in(counted)
    return Standing(
        cordoned=reason_of(cordon) if cordon else "",
        within_s=cordon.within_s if isinstance(cordon, Cordoned) else None,
        strikes=sum(event.strikes for event in counted if isinstance(event, Finding)),
        clears=sum(isinstance(event, Cleared) for event in history),
    )


NOTHING_DECIDED: dict[str, Any] = {}
"""Said of every entry, so that runs of an earlier version read it, less the fields that they don't know."""


def is_told(event: NodeEvent, history: Iterable[NodeEvent]) -> bool:
    """Whether a run has told this before: a cordon or strikes for the same run, attempt and machine, or the same GPUs as last seen."""
    match event:
        case Finding():
            return any(isinstance(one, Finding) and _key(one) == _key(event) for one in history)
        case GpusSeen():
            return gpus_of([one for one in history if one.machine == event.machine]) == event.gpus
    return False


def _key(finding: Finding) -> tuple[str, int, str, bool]:
    return finding.run, finding.attempt, finding.machine, finding.cordons


class NodeRegistry:
    """The registry of a storage root, which many write at once. For one thread at a time."""

    def __init__(self, store: ObjectStore) -> None:
        """`store` is the whole storage root."""
        self._store = store_of_nodes(store)
        self._events: list[NodeEvent] = []

    def read(self) -> list[NodeEvent]:
        """Every event, in order. Costs one listing where nothing is new. Raises StoreError, JournalBroken."""
        if self._store.list(JOURNAL, after=journal_key(len(self._events))):
            self._events = _events(read_journal(self._store, NODE_EVENT_KINDS))
        return list(self._events)

    def record(self, event: NodeEvent) -> None:
        """Returns once the event is durable, behind whatever others have written meanwhile. What `is_told` is not repeated.

        Raises StoreError, JournalBroken.
        """
        while True:
            journal = open_journal(self._store, NODE_EVENT_KINDS)
            if is_told(event, _events(journal.entries)):
                return
            try:
                return journal.append(event, NOTHING_DECIDED)
            except Superseded:
                continue  # another writer took this number: read on, and take the next


def _events(entries: Iterable[Entry[NodeEvent]]) -> list[NodeEvent]:
    return [entry.event for entry in entries if not isinstance(entry.event, Lost)]
