"""A run of the store, which is read again only where something was added to its journal."""

import threading
from dataclasses import dataclass

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectInfo, ObjectStore
from launch.runs.record import RunRecord, read_run_and_journal, run_store_of
from orchestrator.control.events import Event
from orchestrator.records.journal import Entry
from orchestrator.records.keys import JOURNAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    record: RunRecord
    journal: tuple[Entry[Event], ...]

    @property
    def events(self) -> list[Event]:
        return [entry.event for entry in self.journal]


class StoredRun:
    """Safe to use from any thread."""

    def __init__(self, storage: StorageConfig, store: ObjectStore, name: str) -> None:
        self._storage, self._name = storage, name
        self._run_store = run_store_of(store, name)
        self._reading = threading.Lock()
        self._newest: tuple[str, ObjectInfo] | None = None
        """What sorts before the newest entry of the journal that was read, and that entry."""
        self._recorded: Recorded | None = None

    def read(self) -> Recorded:
        """Raises NoSuchRun, OnlyWeights, StoreError, JournalBroken."""
        with self._reading:
            if self._recorded is None or not self._is_as_it_was():
                entries = self._run_store.list(JOURNAL)
                record, journal = read_run_and_journal(self._storage, self._name)
                self._newest = (entries[-2].key if len(entries) > 1 else "", entries[-1]) if entries else None
                self._recorded = Recorded(record=record, journal=tuple(journal))
            return self._recorded

    def _is_as_it_was(self) -> bool:
        if self._newest is None:
            return False
        before, newest = self._newest
        return self._run_store.list(JOURNAL, after=before) == [newest]
