"""What the page of one run shows, JSON-ready: through its controller where one answers, else from the store."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectStore
from launch.config.storage import storage_hint
from launch.runs.inspect import list_checkpoints
from launch.runs.record import RunRecord
from launch.runs.view import ReadOnlyHandle, RunView
from launch.ui.attempts import attempts_of, step_time_between_checkpoints
from launch.ui.curves import Column, curves_of
from launch.ui.glance import Seen, command_for, glance, time_left_s
from launch.ui.ledger import LedgerColumns
from launch.ui.logs import log_page
from launch.ui.memo import Memo
from launch.ui.stored import Recorded, StoredRun
from orchestrator.control.events import CheckpointCommitted
from orchestrator.identity import RunIdentity

FindAny = Callable[[RunIdentity, StorageConfig], ReadOnlyHandle | None]
"""Finds the controller of a run; None for none."""
STEPS_KEPT_S, RANKS_KEPT_S, CHECKPOINTS_KEPT_S, LOG_KEPT_S = 3.0, 2.0, 10.0, 3.0
LOG_BYTES = 8 << 20
"""So much of a log's end is shown and searched."""


class RunPage:
    """`look` is called by one thread at a time, the rest from any."""

    def __init__(self, storage: StorageConfig, store: ObjectStore, name: str, find: FindAny, *, clock: Callable[[], float]) -> None:
        self._storage, self._find, self._clock = storage, find, clock
        self._stored = StoredRun(storage, store, name)
        self._view: RunView | None = None
        self._ledger: LedgerColumns | None = None
        self._reading = threading.Lock()
        self._steps_read, self._ranks_read = Memo(STEPS_KEPT_S), Memo(RANKS_KEPT_S)
        self._checkpoints_read, self._logs_read = Memo(CHECKPOINTS_KEPT_S), Memo(LOG_KEPT_S)

    def look(self) -> dict[str, Any]:
        """The run's state. Raises NoSuchRun, OnlyWeights, StoreError."""
        if self._view is None:
            self._view = self._new_view()
        status = self._view.status()
        recorded, now_s = self._stored.read(), self._clock()
        step_s = step_time_between_checkpoints(recorded.events)
        terms = recorded.record.state.terms
        seen = Seen(
            step_s=step_s,
            committed_age_s=_committed_age_s(recorded, status["last_committed_step"], now_s),
            restarts_in_row=recorded.record.state.restarts_in_row,
            max_restarts=terms.recovery.max_restarts if terms else 0,
            steps=self._steps(),
            hint=storage_hint(self._storage),
        )
        return {
            "status": status,
            "glance": glance(status, seen),
            "command": command_for(status, seen.hint),
            "attempts": attempts_of(recorded.events),
            "submitted_at_s": recorded.events[0].at_s,
            "written_s_ago": max(0.0, now_s - recorded.events[-1].at_s),
            "left_s": time_left_s(status, step_s),
            "world_size": recorded.record.config.parallel.world_size,
            "newest_record": _newest(seen.steps),
        }

    def curves(self, *, x: str, first: float, last: float, width: int) -> dict[str, Any]:
        """See `curves_of`. Raises NoSuchRun, StoreError."""
        return curves_of(self._steps(), x=x, first=first, last=last, width=width)

    def checkpoints(self) -> list[dict[str, Any]]:
        """Those that a resume may use, newest first. Raises NoSuchRun, StoreError, DecodeError."""
        rows: list[dict[str, Any]] = self._checkpoints_read.get("", lambda: list_checkpoints(self._record().run_store))
        return rows

    def ranks(self) -> list[dict[str, Any]]:
        """See `RunView.ranks`. Raises NoSuchRun, StoreError."""
        ranks: list[dict[str, Any]] = self._ranks_read.get("", lambda: self._new_view().ranks())
        return ranks

    def log(self, *, rank: int, attempt: int, search: str) -> dict[str, Any]:
        """The end of what a worker printed; attempt 0 is the newest. Raises UserError, NoSuchLog among it."""
        data = self._logs_read.get((rank, attempt), lambda: self._log(rank, attempt))
        return {"rank": rank, "attempt": attempt or max(1, self._record().state.attempt), **log_page(data, search)}

    def _log(self, rank: int, attempt: int) -> bytes:
        end = bytearray()
        for piece in self._new_view().log(rank, attempt, follow=False):
            end += piece
            del end[:-LOG_BYTES]
        return bytes(end)

    def _steps(self) -> dict[str, Column]:
        with self._reading:
            if self._ledger is None:
                self._ledger = LedgerColumns(self._record().run_store)
        steps: dict[str, Column] = self._steps_read.get("", self._ledger.read)
        return steps

    def _record(self) -> RunRecord:
        return self._stored.read().record

    def _new_view(self) -> RunView:
        record = self._record()
        return RunView(record, lambda: self._find(record.identity, self._storage), clock=self._clock, read=self._record)


def _committed_age_s(recorded: Recorded, step: int, now_s: float) -> float | None:
    found = [event.at_s for event in recorded.events if isinstance(event, CheckpointCommitted) and event.step == step]
    return max(0.0, now_s - found[-1]) if found else None


def _newest(steps: Mapping[str, Column]) -> dict[str, float] | None:
    return {name: float(steps[name][-1]) for name in ("step", "attempt", "loss", "grad_norm", "tokens")} if len(steps["step"]) else None
