"""Where a run's time went: a class for every instant from its submission to its end, or until now. Pure.

A fold of the journal, which says what happened between steps, and of the steps' records, which say when each ended and what it waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.control.events import Event
from orchestrator.health.attempts import account_of_attempt, last_certain_s, timed
from orchestrator.health.classes import CLASSES, TimeClass
from orchestrator.health.painter import Painter
from orchestrator.health.timeline import Attempt, Timeline, timeline
from orchestrator.records.journal import Entry
from orchestrator.records.series import Columns

Steps = Mapping[int, Columns]
"""By attempt: see `ledger.read_columns`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Spans that follow each other without gap or overlap. Times are seconds since the submission, but for `begin_s`."""

    begin_s: float
    """The submission, seconds since the epoch."""
    wall_s: float
    final_s: float
    """Spans that end before stay as they are, whatever comes, but that what was productive or slow may turn out to be lost."""
    starts_s: NDArray[np.float64]
    """Of each span; it ends where the next one begins, the last one at `wall_s`."""
    codes: NDArray[np.int8]
    """Its class, as a place in `CLASSES`."""
    blames: NDArray[np.int32]
    """The attempt whose failure, or end, it is due to; 0 for none."""
    counted: NDArray[np.int64]
    """The steps whose time was productive or slow."""
    timeline: Timeline

    @property
    def lengths_s(self) -> NDArray[np.float64]:
        return np.diff(self.starts_s, append=self.wall_s)

    @property
    def classes_s(self) -> dict[TimeClass, float]:
        """How long each took; together as long as the run."""
        sums = np.bincount(self.codes, weights=self.lengths_s, minlength=len(CLASSES))
        return {one: float(sums[code]) for code, one in enumerate(CLASSES)}


def account_of(entries: Sequence[Entry[Event]], steps: Steps, *, now_s: float) -> Account:
    """The account of a run that was submitted; `entries` is its whole journal, `now_s` counts for one that goes on."""
    line = timeline(entries, now_s=now_s)
    after = discarded_after(line, steps)
    painter, final_s, counted = Painter(), line.told_s, [np.empty(0, dtype=np.int64)]
    for stretch in line.stretches:
        if isinstance(stretch, Attempt):
            its_steps = timed(stretch, steps.get(stretch.number), begin_s=line.begin_s)
            counted.append(account_of_attempt(painter, stretch, its_steps, discarded_after=after.get(stretch.number)))
            if not line.is_settled and stretch is line.attempts[-1]:
                final_s = last_certain_s(stretch, its_steps, told_s=line.told_s)
        else:
            painter.paint(stretch.end_s, stretch.kind, stretch.blame)
    starts_s, codes, blames = painter.spans(line.end_s)
    return Account(
        begin_s=line.begin_s,
        wall_s=line.end_s,
        final_s=final_s,
        starts_s=starts_s,
        codes=codes,
        blames=blames,
        counted=np.concatenate(counted),
        timeline=line,
    )


def shares(account: Account, num_bins: int) -> NDArray[np.float64]:
    """How much of each of that many equal parts of the run's time each class has: a row per part, a column per class."""
    edges_s = np.linspace(0.0, account.wall_s, num_bins + 1)[:-1]
    starts_s = np.union1d(account.starts_s, edges_s)
    codes = account.codes[np.searchsorted(account.starts_s, starts_s, side="right") - 1]
    parts = np.searchsorted(edges_s, starts_s, side="right") - 1
    took_s = np.bincount(parts * len(CLASSES) + codes, np.diff(starts_s, append=account.wall_s), minlength=num_bins * len(CLASSES))
    return took_s.reshape(num_bins, len(CLASSES)) * num_bins / account.wall_s


def discarded_after(line: Timeline, steps: Steps) -> dict[int, int]:
    """By attempt that another one came after: the step behind which what it did was discarded, since a later one began there."""
    found: dict[int, int] = {}
    kept: int | None = None
    for attempt in sorted(line.attempts, key=lambda one: one.number, reverse=True):
        if kept is not None:
            found[attempt.number] = kept
        from_step = attempt.resumed.from_step if attempt.resumed is not None else _first_step(steps.get(attempt.number))
        kept = from_step if kept is None else kept if from_step is None else min(kept, from_step)
    return found


def _first_step(columns: Columns | None) -> int | None:
    """The one before, from which an attempt began whose beginning nobody saw."""
    return int(columns["step"][0]) - 1 if columns is not None and len(columns["step"]) else None
