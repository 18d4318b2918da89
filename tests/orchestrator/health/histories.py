"""Journals and steps to take account of: `journal(...)` decides what each event leads to, `steps(...)` are an attempt's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from orchestrator.control.events import AttemptStarted, Event, TrainingResumed
from orchestrator.control.history import KINDS, open_history
from orchestrator.health.account import Account
from orchestrator.health.classes import CLASSES
from orchestrator.messages import Source
from orchestrator.records.journal import Entry, read_journal
from orchestrator.records.ledger import COLUMNS
from orchestrator.records.series import Columns
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import placed

BEGAN_S = 1_800_000_000.0
"""When the stories begin; times in them count from there."""


def journal(*told: tuple[float, Event]) -> list[Entry[Event]]:
    """The journal of events, each at its second; every one of them must have meant something."""
    store = MemoryStore()
    history = open_history(store, "controller")
    for at_s, event in told:
        assert history.append(replace(event, at_s=BEGAN_S + at_s)), f"{event} changes nothing"
    return read_journal(store, KINDS)


def begins(attempt: int, on: str = "ab") -> AttemptStarted:
    event = placed(attempt, on)
    assert isinstance(event, AttemptStarted)
    return event


def loads(attempt: int, step: int, loading_s: float, source: Source = Source.STORE) -> TrainingResumed:
    return TrainingResumed(at_s=0.0, attempt=attempt, from_step=step, source=source, loading_s=loading_s)


def steps(first: int, ends_s: Sequence[float], **columns: Sequence[float] | float) -> Columns:
    """Steps from `first` on that end then; in `columns`, by name, a value for each or one for all."""
    count = len(ends_s)
    known = {"step": np.arange(first, first + count), "ended_at_s": BEGAN_S + np.asarray(ends_s, dtype=float)}
    given = {name: np.broadcast_to(np.asarray(value), count) for name, value in columns.items()}
    return {name: np.full(count, default) for name, default in COLUMNS.items()} | known | given


def told(account: Account) -> list[tuple[float, float, str]]:
    """The spans: from, to, and what they are."""
    ends_s = [*account.starts_s[1:], account.wall_s]
    return [
        (round(float(start), 6), round(float(end), 6), CLASSES[code].value)
        for start, end, code in zip(account.starts_s, ends_s, account.codes, strict=True)
    ]


def seconds(account: Account) -> dict[str, float]:
    """By class, those that took any."""
    return {one.value: round(took, 6) for one, took in account.classes_s.items() if took}
