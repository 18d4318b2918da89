"""`braid incidents`: a run's troubles from its records alone."""

import json
from dataclasses import replace

import pytest

from launch.runs.record import run_store_of
from orchestrator.control.causes import Cause
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, RUNNING, store_at, stored_run
from tests.orchestrator.control.stories import failed, fault, gone
from tests.orchestrator.health.test_stacks import READS, WAITS, text_of

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in run\nValueError: no such thing\n'
HUNG = (*RUNNING, replace(failed(1, fault(Cause.HUNG, "b", rank=1), at_step=33), silent_s=4.0), gone(1))


def put_log(braid: Braid, rank: int, text: str, *, attempt: int = 1) -> None:
    run_store_of(store_at(braid.root), "first").put(f"logs/a{attempt:04d}/rank-{rank:05d}.log", text.encode())


def test_all_of_a_run_are_listed_with_what_each_cost(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    (one,) = json.loads(braid("incidents", "first", "--json").out)
    assert (one["number"], one["cause"], one["rank"], one["steps_replayed"], one["source"]) == (1, "killed", 1, 13, "store")
    assert [hop["name"] for hop in one["hops"]] == ["noticed", "all gone", "next attempt", "loaded from store", "first step"]
    assert sum(hop["seconds"] for hop in one["hops"]) == pytest.approx(one["stood_still_s"])
    assert one["gpu_seconds"] == 2 * one["stood_still_s"]
    assert "killed" in braid("incidents", "first").out


def test_a_run_without_any_says_so_and_a_number_that_is_not_there_is_one_line(braid: Braid) -> None:
    stored_run(braid.root, RUNNING)
    assert braid("incidents", "first").out == "no incident\n"
    done = braid("incidents", "first", "1")
    assert (done.status, done.err) == (2, "braid: incident 1: run first has had no incident; `braid incidents first` lists them\n")


def test_one_is_told_with_the_first_error_of_the_rank_that_failed(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_log(braid, 1, f"step 33\n{TRACEBACK}step 34\n")
    shown = braid("incidents", "first", "1").out
    assert "incident 1: killed on B rank 1" in shown
    assert "first error of rank 1\nTraceback (most recent call last):" in shown
    assert "ValueError: no such thing" in shown
    assert "━" in shown
    assert "step 34" not in shown


def test_of_a_hang_it_is_told_where_every_worker_stood_and_who_never_came(braid: Braid) -> None:
    stored_run(braid.root, HUNG)
    for rank, stack in enumerate((WAITS, READS)):
        put_log(braid, rank, "step 33\n" + text_of(*stack) + "  ...\n")
    evidence = json.loads(braid("incidents", "first", "1", "--json").out)["evidence"]
    assert [group["ranks"] for group in evidence["stacks"]] == [[0], [1]]
    assert evidence["missing"].startswith("waiting: rank 0 in reduce_scatter_single; rank 1 never entered it: in read (")
    assert evidence["last_lines"] == ["step 33"]
    assert "where the workers stood\nwaiting: rank 0 in" in braid("incidents", "first", "1").out


def test_a_log_that_nobody_has_is_no_reason_to_tell_less_of_the_rest(braid: Braid) -> None:
    stored_run(braid.root, HUNG)
    shown = braid("incidents", "first", "1").out
    assert "the log of rank 1 is not on the store, nor on this machine" in shown
    assert "not recovered from" in shown
