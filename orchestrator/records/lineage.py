"""Which snapshots in memory lie on a run's history, so that the next attempt may go on from them. No torch.

A snapshot is of the attempt that took it. Attempts that trained after that one, from something else, have left it behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from data_pipeline.store.protocol import ObjectStore
from orchestrator.records.commit_log import Entry, Fence, Snapshot
from orchestrator.records.ledger import StepRecord, read_newest_record


def newest_recorded(store: ObjectStore, *, before: int, since_step: int) -> StepRecord | None:
    """The last record of the newest attempt before `before` that has done a step after `since_step`; None where none has."""
    attempts = range(before - 1, 0, -1)
    found = (read_newest_record(store, attempt, since_step=since_step) for attempt in attempts)
    return next((record for record in found if record is not None and record.step > since_step), None)


def may_go_on_from(name: tuple[int, int], recorded: StepRecord | None, entries: Sequence[Entry]) -> bool:
    """Whether the snapshot, by attempt and step, is of what was recorded last, or what that attempt itself went on from.

    Its steps are all recorded then: nothing is trained on that has no proof. `entries` is the commit log. Where the last step's numbers
    are not finite none is: what led there may be in its weights, and a checkpoint is from longer before.
    """
    if recorded is None or not (recorded.is_finite and math.isfinite(recorded.eval_loss or 0.0)):
        return False
    attempt, step = name
    return (attempt == recorded.attempt and step <= recorded.step) or name == _began_with(recorded.attempt, entries)


def _began_with(attempt: int, entries: Sequence[Entry]) -> tuple[int, int] | None:
    """The snapshot that an attempt went on from."""
    fenced, found = 0, None
    for entry in entries:
        if isinstance(entry, Fence):
            fenced = entry.attempt
        elif isinstance(entry, Snapshot) and fenced == attempt:
            found = (entry.attempt, entry.step)
    return found
