"""Random lives of a run under clocks that jump: its account always adds up, and what is certain stays."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.control.events import AttemptStarted, Event, TrainingResumed
from orchestrator.control.history import KINDS, fold
from orchestrator.control.state import ACTIVE, Stage
from orchestrator.health.account import Account, account_of
from orchestrator.health.classes import CLASSES, TimeClass
from orchestrator.records.journal import Entry, read_journal
from orchestrator.records.series import Columns
from tests.orchestrator.control.test_random_histories import live
from tests.orchestrator.health.histories import steps

MAY_BE_LOST = (TimeClass.PRODUCTIVE, TimeClass.SLOW)


def random_steps(chance: random.Random, entries: list[Entry[Event]]) -> dict[int, Columns]:
    """What workers may have recorded, by clocks of their own, of some attempts and not of others."""
    found: dict[int, Columns] = {}
    for entry in entries:
        event = entry.event
        if isinstance(event, AttemptStarted | TrainingResumed) and chance.random() < 0.6:
            first = event.from_step + 1 if isinstance(event, TrainingResumed) else chance.randrange(1, 12)
            found[event.attempt] = random_columns(chance, first, begin_s=event.at_s)
    return found


def random_columns(chance: random.Random, first: int, *, begin_s: float) -> Columns:
    count = chance.randrange(1, 90)
    low_s, high_s = chance.choice([(-1e6, 1e6), (begin_s - 5, begin_s + 2e5)])
    ends_s = [chance.uniform(low_s, high_s) for _ in range(count)]
    waits = {name: chance.choices([0.0, 1e-3, 5.0, 1e5], k=count) for name in ("data_wait_s", "checkpoint_s", "eval_s")}
    columns = steps(first, ends_s, skipped=[chance.random() < 0.1 for _ in range(count)], **waits)
    return columns | {"ended_at_s": np.array(sorted(ends_s) if chance.random() < 0.7 else ends_s)}


def life(seed: int) -> tuple[random.Random, list[Entry[Event]], dict[int, Columns]]:
    chance = random.Random(seed)
    _, store, _ = live(seed, looks=200, faults=chance.uniform(0.05, 0.6))
    entries = [loading(chance, entry) for entry in read_journal(store, KINDS)]
    return chance, entries, random_steps(chance, entries)


def loading(chance: random.Random, entry: Entry[Event]) -> Entry[Event]:
    """The entry, with a time to load."""
    if not isinstance(entry.event, TrainingResumed):
        return entry
    return replace(entry, event=replace(entry.event, loading_s=chance.choice([0.0, 1.0, 1e5])))


def check(account: Account) -> None:
    assert sum(account.classes_s.values()) == pytest.approx(account.wall_s, abs=1e-3)
    assert (account.lengths_s > 0).all(), "an empty span, or one that overlaps the one before"
    assert len(account.starts_s) == len(account.codes) == len(account.blames)
    assert account.wall_s == 0 or account.starts_s[0] == 0
    assert 0 <= account.final_s <= account.wall_s


def shown_until(entries: list[Entry[Event]], known: Mapping[int, Columns], chance: random.Random) -> dict[int, Columns]:
    """The steps as a reader finds them after these entries: of the last attempt perhaps not all, as long as its workers are there."""
    begun = [entry.event.attempt for entry in entries if isinstance(entry.event, AttemptStarted)]
    shown = {attempt: columns for attempt, columns in known.items() if attempt in begun}
    if begun and begun[-1] in shown and fold(entries).stage in (*ACTIVE, Stage.DRAINING):
        last = shown[begun[-1]]
        count = chance.randrange(len(last["step"]) + 1)
        shown[begun[-1]] = {name: values[:count] for name, values in last.items()}
    return shown


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_the_classes_add_up_to_the_wall_clock(seed: int):
    chance, entries, known = life(seed)
    check(account_of(entries, known, now_s=chance.uniform(-1e6, 2e6)))


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_what_is_certain_stays_but_that_it_may_turn_out_to_be_lost(seed: int):
    chance, entries, known = life(seed)
    cut = chance.randrange(1, len(entries) + 1)
    early = account_of(entries[:cut], shown_until(entries[:cut], known, chance), now_s=chance.uniform(-1e6, 2e6))
    check(early)
    late = account_of(entries, known, now_s=2e6)

    starts_s = np.unique(np.concatenate([early.starts_s, late.starts_s]))
    for moment in starts_s[starts_s < early.final_s - 1e-3] + 1e-4:
        before, after = (CLASSES[one.codes[np.searchsorted(one.starts_s, moment, side="right") - 1]] for one in (early, late))
        assert before is after or (before in MAY_BE_LOST and after is TimeClass.LOST), f"{before} became {after} at {moment}"


def test_the_random_lives_are_various():
    """So that the tests above are worth something: nearly every class comes up among a few hundred."""
    found: set[TimeClass] = set()
    for seed in range(300):
        _, entries, known = life(seed)
        found |= {one for one, took_s in account_of(entries, known, now_s=2e6).classes_s.items() if took_s}
    assert found >= set(TimeClass) - {TimeClass.STOPPED}
