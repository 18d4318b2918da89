"""What the page of one run shows, JSON-ready: through its controller where one answers, else from the store."""

from collections.abc import Callable, Mapping
from typing import Any

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectStore
from launch.config.storage import storage_hint
from launch.runs.goodput import answer, goodput_of, timeline_shares
from launch.runs.incidents import incident_of, incidents_in
from launch.runs.inspect import list_checkpoints
from launch.runs.record import RunRecord
from launch.runs.view import ReadOnlyHandle, RunView
from launch.show.goodput import COLOURS
from launch.ui.attempts import attempts_of, step_time_between_checkpoints
from launch.ui.curves import Column, curves_of
from launch.ui.glance import Seen, command_for, glance, time_left_s
from launch.ui.ledger import LedgerColumns, Steps
from launch.ui.logs import log_page
from launch.ui.memo import Memo
from launch.ui.stored import Recorded, StoredRun
from orchestrator.control.events import CheckpointCommitted
from orchestrator.identity import RunIdentity

FindAny = Callable[[RunIdentity, StorageConfig], ReadOnlyHandle | None]
"""Finds the controller of a run; None for none."""
STEPS_KEPT_S, RANKS_KEPT_S, LOG_KEPT_S = 3.0, 2.0, 3.0
GOODPUT_KEPT_S, CHECKPOINTS_KEPT_S, EVIDENCE_KEPT_S = 10.0, 10.0, 30.0
INCIDENTS_SHOWN = 50
STRETCHES = 400
"""Of the run's time, in its picture."""
LOG_BYTES = 8 << 20
"""So much of a log's end is shown and searched."""


class RunPage:
    """`look` is called by one thread at a time, the rest from any."""

    def __init__(self, storage: StorageConfig, store: ObjectStore, name: str, find: FindAny, *, clock: Callable[[], float]) -> None:
        self._storage, self._find, self._clock = storage, find, clock
        self._stored = StoredRun(storage, store, name)
        self._view: RunView | None = None
        self._ledger = LedgerColumns()
        self._steps_read, self._ranks_read = Memo(STEPS_KEPT_S), Memo(RANKS_KEPT_S)
        self._goodput_read, self._evidence_read = Memo(GOODPUT_KEPT_S), Memo(EVIDENCE_KEPT_S)
        self._checkpoints_read, self._logs_read = Memo(CHECKPOINTS_KEPT_S), Memo(LOG_KEPT_S)

    def look(self) -> dict[str, Any]:
        """The run's state. Raises NoSuchRun, OnlyWeights, StoreError."""
        if self._view is None:
            self._view = self._new_view()
        status = self._view.status()
        recorded, now_s = self._stored.read(), self._clock()
        steps = self._steps()
        step_s = steps.step_s or step_time_between_checkpoints(recorded.events)
        terms = recorded.record.state.terms
        seen = Seen(
            step_s=step_s,
            committed_age_s=_committed_age_s(recorded, status["last_committed_step"], now_s),
            restarts_in_row=recorded.record.state.restarts_in_row,
            max_restarts=terms.recovery.max_restarts if terms else 0,
            steps=steps.newest,
            hint=storage_hint(self._storage),
        )
        return {
            "status": status,
            "glance": glance(status, seen),
            "command": command_for(status, seen.hint),
            "journal_length": len(recorded.journal),
            "attempts": attempts_of(recorded.events),
            "submitted_at_s": recorded.events[0].at_s,
            "written_s_ago": max(0.0, now_s - recorded.events[-1].at_s),
            "left_s": time_left_s(status, step_s),
            "world_size": recorded.record.config.parallel.world_size,
            "newest_record": _newest(seen.steps),
        }

    def curves(self, *, x: str, first: float, last: float, width: int) -> dict[str, Any]:
        """See `curves_of`. Raises NoSuchRun, StoreError."""
        return curves_of(self._steps().newest, x=x, first=first, last=last, width=width)

    def goodput(self) -> dict[str, Any]:
        """Where the time went: what `braid goodput --json` says, and how it is drawn. Raises NoSuchRun, StoreError."""
        told: dict[str, Any] = self._goodput_read.get("", self._goodput)
        return told

    def _goodput(self) -> dict[str, Any]:
        recorded = self._stored.read()
        found = goodput_of(recorded.record, recorded.journal, self._steps().by_attempt, now_s=self._clock())
        return {**answer(found), "shares": timeline_shares(found, STRETCHES), "colours": COLOURS}

    def incidents(self) -> list[dict[str, Any]]:
        """The newest, the oldest of them first. Raises NoSuchRun, StoreError."""
        recorded = self._stored.read()
        return incidents_in(recorded.record, recorded.events)[-INCIDENTS_SHOWN:]

    def incident(self, number: int) -> dict[str, Any]:
        """One of them with its evidence, the first being 1. Raises UserError."""
        told: dict[str, Any] = self._evidence_read.get(number, lambda: incident_of(self._record(), number))
        return told

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

    def _steps(self) -> Steps:
        steps: Steps = self._steps_read.get("", lambda: self._ledger.read(self._record()))
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
