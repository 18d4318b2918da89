"""A run's step ledger as columns, of which only what is new is read again."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_pipeline.store.protocol import ObjectStore
from launch.runs.health import read_steps
from launch.runs.record import RunRecord
from launch.ui.curves import Column, newest_of_each_step
from orchestrator.health.pace import expected_s
from orchestrator.records import segments
from orchestrator.records.keys import compacted_after, compacted_directory, ledger_directory, segments_after
from orchestrator.records.ledger import COLUMNS
from orchestrator.records.series import Columns, columns_of, joined

SHOWN = ("step", "attempt", "loss", "grad_norm", "tokens", "eval_loss", "ended_at_s", "data_wait_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What is recorded of a run's steps."""

    by_attempt: Mapping[int, Columns]
    """Every record."""
    newest: Mapping[str, Column]
    """The newest attempt's record of each step, by name of a field: what the weights came of. What nobody recorded is no number."""

    @property
    def step_s(self) -> float | None:
        """What a step usually takes by now; None where records do not say when steps ended."""
        took_s = self.newest["step_s"]
        return expected_s(took_s[np.isfinite(took_s)]) or None


class LedgerColumns:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._reading = threading.Lock()
        self._steps: Steps | None = None

    def read(self, record: RunRecord) -> Steps:
        """`record` is the run as it stands now. Raises StoreError, DecodeError."""
        with self._reading:
            if self._steps is None:
                self._steps = steps_of(read_steps(record))
            elif newer := self._newer(record.run_store, self._steps.by_attempt, record.state.attempt):
                self._steps = steps_of({**self._steps.by_attempt, **newer})
            return self._steps

    def _newer(self, store: ObjectStore, known: Mapping[int, Columns], newest: int) -> dict[int, Columns]:
        """The attempts of which there is more by now. One that was followed may still have had a last second to write down."""
        found: dict[int, Columns] = {}
        for attempt in range(max(1, max(known, default=1) - 1), newest + 1):
            before = known.get(attempt)
            last = int(before["step"][-1]) if before is not None and len(before["step"]) else 0
            if (after := records_after(store, attempt=attempt, step=last)) is not None:
                found[attempt] = after if before is None else joined([before, after])
        return found


def records_after(store: ObjectStore, *, attempt: int, step: int) -> Columns | None:
    """The attempt's records of later steps, found without listing those before; None for none. Raises StoreError, DecodeError.

    Segments first: what is compacted meanwhile is then found in what took their place.
    """
    late = segments.read_all(store, ledger_directory(attempt), after=segments_after(attempt, step + 1))
    kept = segments.read_all(store, compacted_directory(attempt), after=compacted_after(attempt, step + 1))
    lines = [line for key, data in kept.items() for line in segments.decode(data, key).lines]
    lines += [line for data in late.values() for line in data.splitlines()]
    if not lines:
        return None
    columns = columns_of(lines, COLUMNS)
    steps, places = np.unique(columns["step"], return_index=True)
    places = places[steps > step]
    return {name: values[places] for name, values in columns.items()} if len(places) else None


def steps_of(by_attempt: Mapping[int, Columns]) -> Steps:
    """What is shown of all attempts' records."""
    parts = [{name: np.asarray(columns[name], dtype=np.float64) for name in SHOWN} for _, columns in sorted(by_attempt.items())]
    newest = newest_of_each_step(joined(parts) if parts else {name: np.zeros(0) for name in SHOWN})
    return Steps(by_attempt=by_attempt, newest=_with_speed(newest))


def _with_speed(columns: Mapping[str, Column]) -> dict[str, Column]:
    """With what a step took, from the end of the one before in its attempt; records of earlier versions have 0 for times."""
    is_timed = columns["ended_at_s"] > 0
    ended_at_s = np.where(is_timed, columns["ended_at_s"], np.nan)
    took_s = np.diff(ended_at_s, prepend=np.nan)
    follows = (np.diff(columns["step"], prepend=np.nan) == 1) & (np.diff(columns["attempt"], prepend=np.nan) == 0) & (took_s > 0)
    step_s = np.where(follows, took_s, np.nan)
    timed = {"ended_at_s": ended_at_s, "data_wait_s": np.where(is_timed, columns["data_wait_s"], np.nan)}
    return {**columns, **timed, "step_s": step_s, "tokens_per_s": columns["tokens"] / step_s}
