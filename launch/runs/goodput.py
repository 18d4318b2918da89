"""`braid goodput`: where a run's time went, from the store alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.config.compute_cost import flops_of_steps, peak_flops
from launch.runs.health import read_history, read_steps
from launch.runs.record import RunRecord
from orchestrator.control.events import Event, TrainingResumed
from orchestrator.control.history import fold
from orchestrator.control.state import Incident, RunState
from orchestrator.health.account import Account, Steps, account_of, shares
from orchestrator.health.classes import CLASSES, TimeClass
from orchestrator.health.totals import Loss, Totals, totals_of
from orchestrator.records.journal import Entry

SECONDS_PER_HOUR = 3600.0
PARTS = 60
"""Of the run's time, in the answer's timeline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goodput:
    """A run's account at the moment of reading."""

    record: RunRecord
    state: RunState
    """What the journal that was read leaves behind."""
    account: Account
    totals: Totals


def read_goodput(record: RunRecord, *, now_s: float) -> Goodput:
    """Raises StoreError, JournalBroken, DecodeError."""
    return goodput_of(record, read_history(record), read_steps(record), now_s=now_s)


def goodput_of(record: RunRecord, entries: Sequence[Entry[Event]], steps: Steps, *, now_s: float) -> Goodput:
    """The same, for who has read the run's journal and steps."""
    account, state = account_of(entries, steps, now_s=now_s), fold(entries)
    return Goodput(record=record, state=state, account=account, totals=totals_of(account, state.incidents))


def answer(found: Goodput) -> dict[str, Any]:
    """What `--json` prints, all of it plain: seconds, GPU-seconds, and three ratios that are null where there is nothing to compare."""
    totals, account = found.totals, found.account
    return {
        "run": found.record.name,
        "state": found.state.label,
        "submitted_at_s": account.begin_s,
        "wall_s": totals.wall_s,
        "classes": {one.value: took_s for one, took_s in totals.classes_s.items()},
        "goodput": totals.goodput,
        "ettr": totals.ettr,
        **_compute(found),
        "gpu_seconds": {one.value: gpu_s for one, gpu_s in totals.gpu_s.items()},
        "missing_gpu_s": totals.missing_gpu_s,
        "spare_gpu_s": totals.spare_gpu_s,
        "cost": _cost(found),
        "losses": [_loss(loss, found.state.incidents) for loss in totals.losses],
        "timeline": [CLASSES[code].value for code in shares(account, PARTS).argmax(axis=1)] if account.wall_s else [],
    }


def timeline_shares(found: Goodput, num_parts: int) -> list[dict[str, float]]:
    """Of each of so many equal parts of the run's time, what each class that occurs in it has of it."""
    if not found.account.wall_s:
        return []
    return [{CLASSES[code].value: float(part[code]) for code in np.flatnonzero(part)} for part in shares(found.account, num_parts)]


def _compute(found: Goodput) -> dict[str, float | None]:
    """FLOPs a second and GPU in productive time, and what that is of its peak."""
    config = found.record.config
    firsts = np.array([stage.first_step for stage in config.stages])
    in_stage = np.bincount(np.searchsorted(firsts, found.account.counted, side="right") - 1, minlength=len(firsts))
    gpu_s = found.totals.gpu_s[TimeClass.PRODUCTIVE]
    rate = flops_of_steps(config, in_stage.tolist()) / gpu_s if gpu_s else None
    peak = peak_flops(_device(found))
    return {"flops_per_gpu_s": rate, "mfu": rate / peak if rate is not None and peak is not None else None}


def _device(found: Goodput) -> str:
    """What the newest attempt that told trained on."""
    told = (moment.event.device for moment in reversed(found.account.timeline.moments) if isinstance(moment.event, TrainingResumed))
    return next(told, "")


def _cost(found: Goodput) -> dict[str, float] | None:
    """None where the recipe does not say what a GPU costs."""
    price, totals = found.record.config.resources.price_per_gpu_hour, found.totals
    if not price:
        return None
    held_s = sum(totals.gpu_s.values()) + totals.spare_gpu_s
    productive_s = totals.gpu_s[TimeClass.PRODUCTIVE]
    return {"price_per_gpu_hour": price, "total": held_s * price / SECONDS_PER_HOUR, "productive": productive_s * price / SECONDS_PER_HOUR}


def _loss(loss: Loss, incidents: Sequence[Incident]) -> dict[str, Any]:
    """What a failure cost, with when it was noticed; a stop is no failure, and has no such time."""
    return {
        "attempt": loss.attempt,
        "cause": loss.cause,
        "node": loss.node,
        "machine": loss.machine,
        "at_s": next((incident.at_s for incident in incidents if incident.attempt == loss.attempt), None),
        "lost_s": loss.took_s,
        "discarded_s": loss.discarded_s,
        "lost_gpu_s": loss.gpu_s,
    }
