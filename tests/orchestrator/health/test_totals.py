"""What an account comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import NodesShort, ResumeRequested
from orchestrator.control.history import fold
from orchestrator.health.account import account_of, shares
from orchestrator.health.classes import CLASSES, TimeClass
from orchestrator.health.totals import totals_of
from orchestrator.messages import Outcome
from tests.orchestrator.control.stories import TERMS, committed, ended, failed, fault, gone, stepped, stop, submitted
from tests.orchestrator.health.histories import BEGAN_S, begins, journal, loads, steps

DAY_S = 86_400
STORY = journal(
    (0, submitted(replace(TERMS, recovery=replace(TERMS.recovery, spares=1)))),
    (10, begins(1)),
    (20, loads(1, 0, 5.0)),
    (30, stepped(1, 1)),
    (100, failed(1, fault(Cause.NODE_LOST, "b"), at_step=71, silent_s=2.0)),
    (101, gone(1)),
    (110, NodesShort(at_s=0.0, attempt=1, text="waiting")),
    (140, begins(2, "ac")),
    (145, loads(2, 50, 2.0)),
    (150, stepped(2, 51)),
    (160, committed(2, 55)),
    (170, stop()),
    (172, ended(2, Outcome.STOPPED, 70)),
    (173, gone(2)),
    (DAY_S, ResumeRequested(at_s=0.0, terms=TERMS)),
    (DAY_S + 5, begins(3, "ac")),
)
"""Two GPUs; a node is lost after step 71, the run goes on from step 50, is stopped and resumed a day later."""
KNOWN = {1: steps(1, range(28, 99)), 2: steps(51, range(150, 170))}


@pytest.fixture(scope="module")
def account():
    return account_of(STORY, KNOWN, now_s=BEGAN_S + DAY_S + 6)


@pytest.fixture(scope="module")
def totals(account):
    return totals_of(account, fold(STORY).incidents)


def test_the_ratios(totals):
    classes_s = totals.classes_s
    assert sum(classes_s.values()) == pytest.approx(DAY_S + 6)
    assert (classes_s[TimeClass.QUEUED], classes_s[TimeClass.STOPPED]) == (15, DAY_S - 173)
    assert classes_s[TimeClass.PRODUCTIVE] == 49 + 19, "neither the first step of an attempt nor what was done again"
    assert totals.goodput == pytest.approx(68 / 179)
    assert totals.ettr == pytest.approx(68 / 164)


def test_gpus_are_held_from_the_first_attempt_to_the_end(totals):
    assert totals.gpu_s[TimeClass.QUEUED] == totals.gpu_s[TimeClass.STOPPED] == 0
    assert totals.gpu_s[TimeClass.PRODUCTIVE] == 2 * 68
    assert totals.gpu_s[TimeClass.WAITING_FOR_NODES] == 30, "one of two nodes is there"
    assert totals.missing_gpu_s == 30
    assert totals.spare_gpu_s == 173 - 10, "as long as it was to keep one"


def test_what_the_failure_cost(totals):
    (loss,) = [loss for loss in totals.losses if loss.cause == "node_lost"]
    assert (loss.attempt, loss.node, loss.machine) == (1, "b", "B")
    assert loss.discarded_s == 21, "steps 51 to 71"
    assert loss.took_s == 150 - 98 + 21 - 0, "and from the last of them to the first one after it"
    assert loss.gpu_s == 2 * loss.took_s - 30


def test_steps_that_count_are_counted(account):
    assert account.counted.tolist() == [*range(2, 51), *range(52, 71)]


def test_the_parts_of_a_run_have_shares_of_its_time(account):
    found = shares(account, 1000)
    assert found.sum(axis=1) == pytest.approx(1)
    assert found.mean(axis=0) * account.wall_s == pytest.approx([account.classes_s[one] for one in CLASSES])


def test_a_run_that_was_only_just_submitted_has_no_ratios():
    totals = totals_of(account_of(STORY[:1], {}, now_s=BEGAN_S), ())
    assert (totals.wall_s, totals.goodput, totals.ettr, totals.losses) == (0, None, None, ())
