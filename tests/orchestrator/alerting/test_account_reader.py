"""Where a run's time went, read beside the controller."""

from __future__ import annotations

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.alerting.account_reader import SHARE, AccountReader, read_totals
from orchestrator.control.history import open_history
from orchestrator.deadlines import ACCOUNT_READ_EVERY_S
from orchestrator.health.totals import Totals
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import running
from tests.orchestrator.health.looks import totals


def test_it_is_that_of_the_journal_and_the_steps():
    store = MemoryStore()
    history = open_history(store)
    for event in running():
        history.append(event)
    found = read_totals(store, now_s=100.0)
    assert found.wall_s == pytest.approx(100.0)
    assert sum(found.classes_s.values()) == pytest.approx(100.0, abs=1e-3)


def test_a_store_that_is_away_leaves_the_numbers_as_they_are(caplog: pytest.LogCaptureFixture):
    answers = [totals(100.0), StoreUnavailable("no answer"), StoreUnavailable("no answer"), totals(200.0)]

    def read() -> Totals:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reader = AccountReader(read)
    seen = []
    for _ in range(4):
        assert reader.look() == ACCOUNT_READ_EVERY_S
        seen.append(reader.totals and reader.totals.wall_s)
    assert seen == [100.0, 100.0, 100.0, 200.0]
    assert caplog.text.count("can't be read, trying again: no answer") == 1


def test_what_takes_long_to_read_is_read_less_often():
    now_s = [0.0]

    def read() -> Totals:
        now_s[0] += 30.0
        return totals()

    assert AccountReader(read, clock=lambda: now_s[0]).look() == 30.0 / SHARE
