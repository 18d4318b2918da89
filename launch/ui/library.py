"""Every run of a storage root as the page's list shows it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import StoreError
from launch.errors import NoSuchRun, OnlyWeights
from launch.runs.record import recorded_status, run_names, run_store_of, status_of_weights
from launch.status import Status
from launch.ui.attempts import step_time_between_checkpoints
from launch.ui.glance import time_left_s
from launch.ui.stored import StoredRun
from orchestrator.codec import DecodeError
from orchestrator.errors import JournalBroken

NUM_PARALLEL_READS = 16
SHOWN = ("run", "state", "reason", "attempt", "step", "num_steps", "loss", "restarts", "num_incidents", "last_committed_step", "alerts")
"""Keys of a status that the list has too."""


class Library:
    """Looked at by one thread at a time. What did not change since is not read again."""

    def __init__(self, storage: StorageConfig, *, clock: Callable[[], float]) -> None:
        self._storage, self._clock = storage, clock
        self._store = open_store(storage)
        self._stored: dict[str, StoredRun] = {}
        self._ended: dict[str, tuple[object, dict[str, Any]]] = {}

    def look(self) -> dict[str, Any]:
        """JSON-ready. Raises StoreError."""
        names = run_names(self._store)
        for name in names:
            if name not in self._stored:
                self._stored[name] = StoredRun(self._storage, self._store, name)
        with ThreadPoolExecutor(NUM_PARALLEL_READS) as pool:
            rows = [row for row in pool.map(self._row, names) if row is not None]
        return {"root": self._storage.root, "runs": rows}

    def _row(self, name: str) -> dict[str, Any] | None:
        """None for what a submission that died left; a run whose records can't be read says so and hides no other."""
        try:
            return self._readable_row(name)
        except NoSuchRun:
            return None
        except OnlyWeights:
            return _shown(status_of_weights(run_store_of(self._store, name)), None)
        except (JournalBroken, DecodeError, StoreError) as error:
            nothing = dict.fromkeys(SHOWN)
            return {**nothing, "run": name, "state": "unreadable", "reason": str(error), "alerts": [], "left_s": None}

    def _readable_row(self, name: str) -> dict[str, Any]:
        recorded = self._stored[name].read()
        known = self._ended.get(name)
        if known is not None and known[0] is recorded:
            return known[1]
        row = _shown(recorded_status(recorded.record, self._clock()), step_time_between_checkpoints(recorded.events))
        if recorded.record.has_ended:
            self._ended[name] = (recorded, row)
        return row


def _shown(status: Status, step_s: float | None) -> dict[str, Any]:
    return {**{key: status[key] for key in SHOWN}, "left_s": None if status["state"] == "weights" else time_left_s(status, step_s)}
