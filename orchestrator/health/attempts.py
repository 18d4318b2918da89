"""The time of one attempt: what it took to begin, its steps one by one, and how it ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.control import events
from orchestrator.control.earlier import WorkerFailed
from orchestrator.health import pace
from orchestrator.health.classes import CODES, TimeClass
from orchestrator.health.painter import Painter
from orchestrator.health.timeline import Attempt, source_class
from orchestrator.records.series import Columns

Seconds = NDArray[np.float64]
ENDED_WELL = (events.WorkersEnded, events.SavingOverdue)
"""After these, the last thing that workers did was to save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedSteps:
    """An attempt's steps, as far as it is known when they ended: since the submission, never backwards, and within the attempt."""

    steps: NDArray[np.int64]
    skipped: NDArray[np.bool_]
    ends_s: Seconds
    checkpoint_s: Seconds
    """After the step before."""
    data_wait_s: Seconds
    eval_s: Seconds


def timed(attempt: Attempt, columns: Columns | None, *, begin_s: float) -> TimedSteps | None:
    """None where no step has a time, as in records of earlier versions. `begin_s` is the submission."""
    if columns is None:
        return None
    known = np.isfinite(columns["ended_at_s"]) & (columns["ended_at_s"] > 0)
    if not known.any():
        return None
    ends_s = np.maximum.accumulate(np.clip(columns["ended_at_s"][known] - begin_s, attempt.begin_s, attempt.over_s))
    parts = {name: np.nan_to_num(columns[name][known], posinf=0.0).clip(min=0.0) for name in ("checkpoint_s", "data_wait_s", "eval_s")}
    return TimedSteps(steps=columns["step"][known], skipped=columns["skipped"][known], ends_s=ends_s, **parts)


def account_of_attempt(painter: Painter, attempt: Attempt, steps: TimedSteps | None, *, discarded_after: int | None) -> NDArray[np.int64]:
    """Paints from the attempt's beginning until it was over, and returns which of its steps count; those after `discarded_after` do not,
    nor its first one, which warms up, nor those whose update was skipped."""
    loaded_s = _paint_beginning(painter, attempt, steps)
    if steps is not None:
        expected_s = _paint_steps(painter, attempt, steps, discarded_after)
        _paint_end(painter, attempt, expected_s)
        is_lost = _is_lost(steps, discarded_after)
        return steps.steps[1:][~(is_lost | steps.skipped)[1:]]
    if loaded_s is None:
        _paint_end_of_start(painter, attempt, TimeClass.STARTING)
    elif attempt.stepped_s is None:
        _paint_end_of_start(painter, attempt, TimeClass.WARMING)
    else:
        painter.paint(attempt.stepped_s, TimeClass.WARMING, attempt.blame)
        _paint_untimed(painter, attempt)
    return np.empty(0, dtype=np.int64)


def _is_lost(steps: TimedSteps, discarded_after: int | None) -> NDArray[np.bool_]:
    return steps.steps > discarded_after if discarded_after is not None else np.zeros(len(steps.steps), dtype=bool)


def last_certain_s(attempt: Attempt, steps: TimedSteps | None, *, told_s: float) -> float:
    """Up to where what is known of an attempt that goes on can't change: its last step that ended before the journal's last entry."""
    if attempt.resumed is None or steps is None:
        return attempt.begin_s
    return float(max(steps.ends_s[steps.ends_s <= told_s], default=attempt.begin_s))


def _paint_beginning(painter: Painter, attempt: Attempt, steps: TimedSteps | None) -> float | None:
    """Until the state was loaded: when that was, None where it was not, as far as is known. The first step's end comes after it."""
    seen_s = attempt.resumed_s
    if steps is not None:
        seen_s = float(steps.ends_s[0]) if seen_s is None else min(seen_s, float(steps.ends_s[0]))
    if seen_s is None:
        return None
    away_s = [one for one in attempt.away_s if one[1] <= seen_s]
    if attempt.resumed is not None:
        painter.paint_unseen(seen_s - max(0.0, attempt.resumed.loading_s), TimeClass.STARTING, attempt.blame, away_s)
        painter.paint_unseen(seen_s, source_class(attempt.resumed), attempt.blame, away_s)
    painter.paint_unseen(seen_s, TimeClass.STARTING, attempt.blame, away_s)
    return seen_s


def _paint_steps(painter: Painter, attempt: Attempt, steps: TimedSteps, discarded_after: int | None) -> float:
    """How long another step is to be expected to take. Within a step's time come what the one before left to save, the wait for data,
    the step itself, what it took beyond the usual, and held-out text."""
    begins_s = np.concatenate([[painter.at_s], steps.ends_s[:-1]])
    left_s = steps.ends_s - begins_s
    parts = []
    for wanted_s in (steps.checkpoint_s, steps.data_wait_s, steps.eval_s):
        parts.append(np.minimum(wanted_s, left_s))
        left_s = left_s - parts[-1]
    saved_s, waited_s, looked_s = parts
    excess_s = np.concatenate([[0.0], pace.excess_s(left_s[1:])])
    trained_s = begins_s + saved_s + waited_s
    looks_s = steps.ends_s - looked_s
    starts_s = np.stack([begins_s, begins_s + saved_s, trained_s, looks_s - excess_s, looks_s])
    starts_s = np.minimum(np.maximum.accumulate(starts_s, axis=0), steps.ends_s)

    codes = np.empty((5, len(left_s)), dtype=np.int8)
    for row, kind in enumerate((TimeClass.CHECKPOINT, TimeClass.DATA_WAIT, TimeClass.PRODUCTIVE, TimeClass.SLOW, TimeClass.EVAL)):
        codes[row] = CODES[kind]
    codes[2:4, _is_lost(steps, discarded_after)] = CODES[TimeClass.LOST]
    codes[2:4, steps.skipped] = CODES[TimeClass.SKIPPED]
    codes[2:4, 0] = CODES[TimeClass.WARMING]
    blames = np.where(codes == CODES[TimeClass.LOST], attempt.number, 0).astype(np.int32)
    blames[:, 0] = attempt.blame
    painter.paint_many(starts_s.T.ravel(), codes.T.ravel(), blames.T.ravel(), float(steps.ends_s[-1]))
    return pace.expected_s(left_s[1:])


def _paint_end(painter: Painter, attempt: Attempt, expected_s: float) -> None:
    """From the last step on. Of the step that was under way as much counts as executed as a step usually takes."""
    over, over_s, by = attempt.over, attempt.over_s, attempt.number
    if isinstance(over, ENDED_WELL) or (attempt.saving_s is not None and over is None):
        return painter.paint(over_s, TimeClass.CHECKPOINT)
    if attempt.saving_s is not None:
        painter.paint_unseen(over_s - _silent_s(over), TimeClass.CHECKPOINT, by, attempt.away_s)
    executed_s = min(over_s - _silent_s(over), painter.at_s + expected_s)
    if over is None:
        painter.paint(executed_s, TimeClass.PRODUCTIVE)
        return painter.paint_unseen(over_s, TimeClass.UNKNOWN, 0, attempt.away_s)
    painter.paint(executed_s, TimeClass.LOST, by)
    painter.paint_unseen(over_s, _how_noticed(attempt), by, attempt.away_s)


def _paint_end_of_start(painter: Painter, attempt: Attempt, kind: TimeClass) -> None:
    """Of an attempt that got no further."""
    if attempt.over is None:
        return painter.paint_unseen(attempt.over_s, kind, attempt.blame, attempt.away_s)
    painter.paint_unseen(attempt.over_s - _silent_s(attempt.over), kind, attempt.blame, attempt.away_s)
    painter.paint_unseen(attempt.over_s, _how_noticed(attempt), attempt.number, attempt.away_s)


def _paint_untimed(painter: Painter, attempt: Attempt) -> None:
    """Steps of which nobody wrote down when they ended."""
    saving_s = attempt.over_s if attempt.saving_s is None else attempt.saving_s
    silent_s = 0.0 if isinstance(attempt.over, ENDED_WELL) else _silent_s(attempt.over)
    painter.paint_unseen(min(saving_s, attempt.over_s - silent_s), TimeClass.UNKNOWN, 0, attempt.away_s)
    painter.paint(attempt.over_s - silent_s, TimeClass.CHECKPOINT)
    painter.paint(attempt.over_s, TimeClass.DETECTING, attempt.number)


def _silent_s(over: object) -> float:
    """For how long nothing had been heard when a failure was noticed."""
    return max(0.0, over.silent_s) if isinstance(over, events.FaultsSeen | WorkerFailed) else 0.0


def _how_noticed(attempt: Attempt) -> TimeClass:
    match attempt.over:
        case events.FoundDead():
            return TimeClass.CONTROLLER_AWAY
        case events.Repaired() | events.AttemptStarted():
            return TimeClass.UNKNOWN
    return TimeClass.DETECTING
