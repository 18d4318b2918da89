"""Stories of runs, and where their time went."""

from __future__ import annotations

import time

import numpy as np
import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import ControllerStarted, FoundDead, NodesShort, ResumeRequested, StopRequested
from orchestrator.health.account import account_of
from orchestrator.messages import Outcome, Source
from tests.orchestrator.control.stories import TERMS, committed, ended, failed, fault, gone, stepped, stop, submitted
from tests.orchestrator.health.histories import BEGAN_S, begins, journal, loads, seconds, steps, told

SMOOTH = ((0, submitted()), (5, begins(1)), (12, loads(1, 0, 2.0)), (16, stepped(1, 1)))
"""Queued for five seconds, five to start, two to load, and a first step that is over after 15."""
FAILS = (40, failed(1, fault(Cause.KILLED, "a"), at_step=24, silent_s=0.5))


def at(second: float) -> float:
    return BEGAN_S + second


def test_a_run_that_is_queued_for_ever():
    account = account_of(journal((0, submitted())), {}, now_s=at(86_400))
    assert told(account) == [(0, 86_400, "queued")]
    assert account.final_s == 0


def test_a_run_that_begins_and_trains():
    account = account_of(journal(*SMOOTH), {1: steps(1, [15, 16, 17, 18])}, now_s=at(18.5))
    assert told(account) == [
        (0, 5, "queued"),
        (5, 10, "starting"),
        (10, 12, "loading_store"),
        (12, 15, "warming"),
        (15, 18.5, "productive"),
    ]


def test_what_a_step_takes_beyond_its_own_work():
    """After the step before a snapshot held training up, then the batch came late; after the update held-out text was looked at."""
    waits = {"checkpoint_s": [0, 0, 0.2], "data_wait_s": [0, 0, 0.3], "eval_s": [0, 0, 0.5]}
    account = account_of(journal(*SMOOTH), {1: steps(1, [15, 16, 18], **waits)}, now_s=at(18))
    assert told(account)[-5:] == [
        (15, 16, "productive"),
        (16, 16.2, "checkpoint"),
        (16.2, 16.5, "data_wait"),
        (16.5, 17.5, "productive"),
        (17.5, 18, "eval"),
    ]


def test_a_step_that_takes_longer_than_usual_is_slow_by_as_much():
    account = account_of(journal(*SMOOTH), {1: steps(1, [15, 16, 17, 18, 21, 22.05])}, now_s=at(22.05))
    assert told(account)[4:] == [(15, 19, "productive"), (19, 21, "slow"), (21, 22.05, "productive")]


def test_a_failure_costs_the_steps_that_are_done_again_and_all_until_the_next_ones():
    entries = journal(
        *SMOOTH,
        FAILS,
        (41, gone(1)),
        (52, begins(2)),
        (55, loads(2, 20, 1.0, Source.OTHER_MEMORY)),
        (58, stepped(2, 21)),
    )
    account = account_of(entries, {1: steps(1, range(15, 39)), 2: steps(21, [57, 58, 59])}, now_s=at(59))
    assert told(account)[4:] == [
        (15, 34, "productive"),
        (34, 39, "lost"),
        (39, 40, "detecting"),
        (40, 52, "deciding"),
        (52, 54, "starting"),
        (54, 55, "loading_other_memory"),
        (55, 57, "warming"),
        (57, 59, "productive"),
    ]
    by_attempt = {int(blame): round(float(account.lengths_s[account.blames == blame].sum()), 6) for blame in (0, 1)}
    assert by_attempt == {0: 36.0, 1: 23.0}, "the first attempt's failure cost 23 s"


def test_a_snapshot_loses_less():
    entries = journal(*SMOOTH, FAILS, (41, gone(1)), (52, begins(2)), (55, loads(2, 24, 1.0, Source.MEMORY)))
    account = account_of(entries, {1: steps(1, range(15, 39))}, now_s=at(56))
    assert seconds(account)["productive"] == 23
    assert seconds(account)["lost"] == 1, "of the step in which it failed"
    assert seconds(account)["loading_memory"] == 1


def test_until_the_next_attempt_has_begun_to_train_nothing_is_known_to_be_lost():
    account = account_of(journal(*SMOOTH, FAILS, (41, gone(1))), {1: steps(1, range(15, 39))}, now_s=at(60))
    assert seconds(account)["productive"] == 23
    assert told(account)[-1] == (40, 60, "deciding")


def test_a_second_failure_before_the_first_step():
    entries = journal(
        *SMOOTH,
        FAILS,
        (41, gone(1)),
        (50, begins(2)),
        (60, failed(2, fault(Cause.NODE_LOST, "a"), silent_s=4.0)),
        (61, gone(2)),
        (70, NodesShort(at_s=0.0, attempt=2, text="waiting")),
        (100, begins(3)),
        (103, loads(3, 20, 1.0)),
    )
    account = account_of(entries, {1: steps(1, range(15, 39))}, now_s=at(104))
    assert told(account)[-8:] == [
        (40, 50, "deciding"),
        (50, 56, "starting"),
        (56, 60, "detecting"),
        (60, 70, "deciding"),
        (70, 100, "waiting_for_nodes"),
        (100, 102, "starting"),
        (102, 103, "loading_store"),
        (103, 104, "warming"),
    ]
    assert {int(blame) for blame in account.blames} == {0, 1, 2}


def test_a_stop_by_a_person_and_a_resume_days_later():
    days = 3 * 86_400
    entries = journal(
        *SMOOTH,
        (20, committed(1, 5)),
        (30, stop()),
        (33, ended(1, Outcome.STOPPED, 17)),
        (34, gone(1)),
        (days, ResumeRequested(at_s=0.0, terms=TERMS)),
        (days + 10, begins(2)),
        (days + 15, loads(2, 17, 1.0)),
    )
    account = account_of(entries, {1: steps(1, range(15, 32))}, now_s=at(days + 16))
    assert told(account)[4:] == [
        (15, 31, "productive"),
        (31, 33, "checkpoint"),
        (33, 34, "deciding"),
        (34, days, "stopped"),
        (days, days + 10, "queued"),
        (days + 10, days + 14, "starting"),
        (days + 14, days + 15, "loading_store"),
        (days + 15, days + 16, "warming"),
    ]


def test_a_run_that_is_over_is_told_up_to_its_end_whenever_it_is_asked_for():
    entries = journal(*SMOOTH, (30, ended(1, Outcome.FINISHED, 15)), (31, gone(1)))
    account = account_of(entries, {1: steps(1, range(15, 30))}, now_s=at(1e6))
    assert account.wall_s == account.final_s == 31
    assert told(account)[-2:] == [(29, 30, "checkpoint"), (30, 31, "deciding")]


def test_a_run_that_failed_waits_for_a_person_to_decide():
    entries = journal(
        *SMOOTH,
        (40, failed(1, fault(Cause.CONFIG, "a", ranks=2, nodes=2), at_step=24)),
        (41, gone(1)),
        (1000, ResumeRequested(at_s=0.0, terms=TERMS)),
    )
    account = account_of(entries, {1: steps(1, range(15, 39))}, now_s=at(1010))
    assert told(account)[-2:] == [(40, 1000, "deciding"), (1000, 1010, "queued")]


def test_a_store_that_is_away():
    entries = journal(*SMOOTH, (40, failed(1, fault(Cause.STORE, None), at_step=24)), (41, gone(1)), (70, begins(2)))
    account = account_of(entries, {1: steps(1, range(15, 39))}, now_s=at(71))
    assert told(account)[-2:] == [(40, 70, "store_wait"), (70, 71, "starting")]


def test_steps_tell_what_a_controller_that_was_away_did_not_see():
    entries = journal((0, submitted()), (5, begins(1)), (300, ControllerStarted(at_s=0.0, epoch=2)), (301, loads(1, 0, 2.0)))
    account = account_of(entries, {1: steps(1, range(15, 300))}, now_s=at(302))
    assert told(account) == [
        (0, 5, "queued"),
        (5, 13, "starting"),
        (13, 15, "loading_store"),
        (15, 300, "productive"),
        (300, 302, "unknown"),
    ]
    assert "controller_away" not in seconds(account)


def test_a_failure_while_no_controller_is_there():
    entries = journal(
        *SMOOTH,
        (300, ControllerStarted(at_s=0.0, epoch=2)),
        (302, failed(1, fault(Cause.NODE_LOST, "a"), at_step=24, silent_s=0.0)),
        (303, gone(1)),
    )
    account = account_of(entries, {1: steps(1, range(15, 39))}, now_s=at(303))
    assert told(account)[-4:] == [(38, 39, "lost"), (39, 300, "controller_away"), (300, 302, "detecting"), (302, 303, "deciding")]


def test_a_run_that_a_person_found_dead():
    entries = journal(*SMOOTH, (5000, FoundDead(at_s=0.0)))
    account = account_of(entries, {1: steps(1, range(15, 39))}, now_s=at(9000))
    assert told(account)[-2:] == [(38, 39, "lost"), (39, 5000, "controller_away")]


def test_skipped_steps_are_their_own():
    account = account_of(journal(*SMOOTH), {1: steps(1, [15, 16, 17, 18], skipped=[False, False, True, False])}, now_s=at(18))
    assert told(account)[4:] == [(15, 16, "productive"), (16, 17, "skipped"), (17, 18, "productive")]


def test_a_run_of_before_knows_everything_but_what_its_training_did():
    untimed = steps(1, [0.0] * 24, ended_at_s=0.0)
    entries = journal(*SMOOTH, FAILS, (41, gone(1)), (50, begins(2)))
    for known in ({1: untimed}, {}):
        account = account_of(entries, known, now_s=at(51))
        assert told(account)[3:] == [
            (12, 16, "warming"),
            (16, 39.5, "unknown"),
            (39.5, 40, "detecting"),
            (40, 50, "deciding"),
            (50, 51, "starting"),
        ]


def test_clocks_that_jump_make_nothing_negative():
    entries = journal((0, submitted()), (-50, begins(1)), (1000, loads(1, 0, 5000.0)), (20, stepped(1, 1)), (30, stop(now=True)))
    account = account_of(entries, {1: steps(1, [-9.0, 1e7, 5.0])}, now_s=at(-1e6))
    assert (account.lengths_s > 0).all()
    assert sum(account.classes_s.values()) == pytest.approx(account.wall_s, abs=1e-3)


def test_a_stop_at_once_is_no_checkpoint():
    entries = journal(*SMOOTH, (40, StopRequested(at_s=0.0, now=True)), (41, gone(1)))
    assert "checkpoint" not in seconds(account_of(entries, {1: steps(1, range(15, 40))}, now_s=at(41)))


def test_a_million_steps():
    """How long it takes is told, not asserted."""
    ends_s = 15 + np.cumsum(np.random.default_rng(0).gamma(50, 0.008, 1_000_000))
    known = {1: steps(1, ends_s, data_wait_s=0.001)}
    entries = journal(*SMOOTH)
    began_s = time.monotonic()
    account = account_of(entries, known, now_s=at(ends_s[-1]))
    print(f"{time.monotonic() - began_s:.2f} s, {len(account.codes):,} spans")
    assert sum(account.classes_s.values()) == pytest.approx(account.wall_s, abs=1e-3)
    assert len(account.codes) > 1_000_000
