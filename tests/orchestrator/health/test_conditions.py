"""What a person is woken for, and what nobody is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.train.metrics import StepMetrics
from orchestrator.alerts_config import AlertsConfig
from orchestrator.control.causes import Cause
from orchestrator.control.events import NodesShort, ResumeRequested
from orchestrator.control.state import RunState
from orchestrator.health.conditions import Kind, Look, Severity, conditions, over_line, status_lines
from orchestrator.messages import Outcome
from orchestrator.records.nodes import Standing
from tests.orchestrator.control.stories import (
    TERMS,
    committed,
    ended,
    failed,
    fault,
    gone,
    lost_checkpoint,
    placed,
    play,
    resumed,
    running,
    seen,
    stepped,
    stop,
    submitted,
)
from tests.orchestrator.health.looks import config_of, holding, remembered, totals, trained

SHORT = NodesShort(at_s=1.0, attempt=0, text="waiting for nodes: needs 2 with 1 free slots, has 1")
STEADY = [trained(step, loss=2.0 + 0.01 * (step % 5), grad_norm=1.0 + 0.02 * (step % 3)) for step in range(1, 201)]
KILLED = failed(1, fault(Cause.KILLED, "b", rank=1, detail="killed by SIGKILL"), at_step=33, at_s=50.0)


def lines(state: RunState, look=None, **known) -> list[str]:
    """Those that `braid status` shows."""
    return status_lines(holding(state, look, **known))


def kinds(state: RunState, look=None, **known) -> list[Kind]:
    return [one.kind for one in holding(state, look, **known)]


# --- what the state says -----------------------------------------------------------------------------------------------


def test_all_is_well():
    over = play(*running(), lost_checkpoint(1, 50, None), failed(1, fault(Cause.HARDWARE)), stop(), gone(1))
    for state in (RunState(), play(submitted()), play(*running()), play(*running(), failed(1, fault())), play(submitted(), stop()), over):
        assert lines(state, seen(), in_stage_s=1e6) == []


def test_a_failure_is_told_with_cause_machine_and_rank_until_the_run_trains_again():
    state = play(*running(), KILLED, gone(1))
    (incident,) = holding(state, now_s=51.0)
    assert (incident.key, incident.severity, incident.command) == (
        "incident-1",
        Severity.WARNING,
        "braid logs first --rank 1 --attempt 1",
    )
    assert (incident.cause, incident.machine, incident.node, incident.rank, incident.attempt) == ("killed", "B", "b", 1, 1)
    assert incident.line == "attempt 1 ended after step 33: killed on B, rank 1: killed by SIGKILL; it recovers by itself"

    again = play(placed(2, "ac"), resumed(2, 20), stepped(2, 21, at_s=53.75), state=state)
    assert holding(again, now_s=54.0) == []
    assert over_line(incident, again) == "training again after 3.8 s, from store (step 20), without B, 13 steps replayed"


def test_failure_after_failure_without_a_step_between_them_is_one_incident():
    state = play(*running(), KILLED, gone(1), placed(2, "ac"), failed(2, fault(Cause.CRASHED, "c"), at_s=60.0), gone(2))
    assert [one.key for one in holding(state, now_s=61.0)] == ["incident-1"]


def test_a_recovery_that_takes_too_long_says_what_is_left():
    state, limit_s = play(*running(), KILLED, gone(1)), AlertsConfig().recovering_after_s
    assert kinds(state, now_s=49.9 + limit_s) == [Kind.INCIDENT]
    _, late = holding(state, now_s=50.0 + limit_s)
    assert (late.key, late.severity, late.command) == ("recovering-1", Severity.CRITICAL, "braid status first")
    assert late.line == "no step for over 600 s since attempt 1 ended (killed); failures in a row: 1, restarts left: 2"


@pytest.mark.parametrize(
    ("events", "severity", "line", "command"),
    [
        (
            (ended(1, Outcome.FINISHED, 1000), gone(1)),
            Severity.INFO,
            "finished, last checkpoint at step 1000: finished at step 1000",
            "braid verify first",
        ),
        (
            (stop(), ended(1, Outcome.STOPPED, 7), gone(1)),
            Severity.INFO,
            "stopped, last checkpoint at step 0: stopped on request at step 7",
            "braid status first",
        ),
        (
            (failed(1, fault(Cause.CONFIG, None, ranks=2, nodes=2)), gone(1)),
            Severity.CRITICAL,
            "failed, last checkpoint at step 0: ",
            "braid status first",
        ),
    ],
    ids=["finished", "stopped", "failed"],
)
def test_the_end_is_told_and_all_else_is_over(events, severity: Severity, line: str, command: str):
    (end,) = holding(play(*running(), *events))
    assert (end.kind, end.severity, end.command) == (Kind.ENDED, severity, command)
    assert end.line.startswith(line)
    assert lines(play(*running(), *events)) == [], "the status says so anyway"


def test_a_run_that_waits_for_nodes_for_long():
    state = play(submitted(), SHORT)
    limit_s = TERMS.recovery.nodes_alarm_s
    without_a = seen(alive="a", standings={"A": Standing(cordoned="bad")})
    assert lines(state, seen(alive="a"), in_stage_s=limit_s - 1) == []
    (line,) = lines(state, without_a, in_stage_s=limit_s)
    assert lines(state, without_a, in_stage_s=2 * limit_s) == [line], "no news, the same line"
    assert line.startswith("for over 600 s waiting for nodes: needs 2 with 1 free slots, has 0; cordoned: A")
    for look in (None, seen(alive="ab")):
        assert lines(state, look, in_stage_s=limit_s) == [
            "for over 600 s waiting for nodes: needs 2 with 1 free slots, has 1; add nodes, or `braid stop` the run"
        ]


def test_checkpoints_that_come_to_nothing():
    (line,) = lines(play(*running(), committed(1, 40), lost_checkpoint(1, 50, "b")))
    assert line == "the checkpoint of step 50 came to nothing (ranks 1 on B): no answer for 60 s; the newest that counts is of step 40"
    (line,) = lines(play(*running(), lost_checkpoint(1, 50, None), lost_checkpoint(1, 100, None)))
    assert line.startswith("the checkpoint of step 100 and 1 before it came to nothing (ranks 1): no answer")


def test_checkpoints_that_do_not_come():
    config, state = config_of(every_steps=50), play(*running(), committed(1, 40))
    for step, expected in ((189, []), (190, ["no checkpoint since step 40, though one is due every 50 steps"])):
        assert lines(state, trained(step), config=config, recent=remembered([trained(step)], config)) == expected


def test_each_machine_that_the_run_took_out_of_use():
    terms = replace(TERMS, recovery=replace(TERMS.recovery, max_cordons=1))
    state = play(submitted(terms), placed(1, "ab"), failed(1, fault(Cause.HARDWARE, "a")), gone(1))
    (line,) = lines(state)
    assert line == (
        "this run cordoned A; with recovery.max_cordons=1 it cordons no more; `braid nodes` says why, `braid nodes clear` gives back"
    )
    assert [one.key for one in holding(state)] == ["incident-1", "cordon-A"]
    (line,) = lines(play(*running(), failed(1, fault(Cause.HARDWARE, "a")), gone(1)))
    assert "no more" not in line
    again = play(stop(), ResumeRequested(at_s=1.0, terms=terms), state=state)
    assert lines(again) == [], "whoever resumed the run has heard of it"


def test_a_store_that_does_not_take_the_journal():
    (away,) = holding(play(*running()), store_trouble="no answer within 60 s")
    assert (away.key, away.severity, away.command) == ("store", Severity.CRITICAL, "braid doctor")
    assert away.line.endswith("no answer within 60 s")


# --- what the numbers say ----------------------------------------------------------------------------------------------


def test_a_steady_run_wakes_nobody():
    config, state = config_of(), play(*running())
    look = Look(run="first", config=config, state=state, seen=STEADY[-1], now_s=100.0, recent=remembered(STEADY, config))
    assert conditions(look).holding == ()
    assert conditions(look).undecided == {Kind.GOODPUT}


def test_a_run_that_stands_still_is_stuck_long_before_it_hangs():
    config, state = config_of(), play(*running())
    slow = [trained(step, step_s=5.0) for step in range(1, 21)]
    recent = remembered(slow, config)
    assert kinds(state, trained(20, quiet_s=99.9), config=config, recent=recent) == []
    (stuck,) = holding(state, trained(20, quiet_s=100.1), config=config, recent=recent)
    assert (stuck.kind, stuck.severity) == (Kind.STUCK, Severity.CRITICAL)
    assert stuck.line == "no step for over 100 s after step 20, which take 5 s as a rule"
    assert kinds(state, trained(200, quiet_s=59.0), config=config, recent=remembered(STEADY, config)) == [], "fast steps have a minute"
    assert kinds(state, trained(200, quiet_s=61.0), config=config, recent=remembered(STEADY, config)) == [Kind.STUCK]


def test_while_nothing_is_known_of_a_run_nothing_is_said_of_its_numbers():
    """A controller that has just begun neither raises an alarm nor ends one."""
    look = Look(run="first", config=config_of(), state=play(*running()), seen=trained(20, quiet_s=1e4, loss=1e4), now_s=100.0)
    assert conditions(look).holding == ()
    assert conditions(look).undecided == {Kind.STUCK, Kind.PACE, Kind.LOSS, Kind.GRAD_NORM, Kind.GOODPUT}


@pytest.mark.parametrize(("kind", "known"), [(Kind.LOSS, {"loss": 5.0}), (Kind.GRAD_NORM, {"grad_norm": 40.0})])
def test_numbers_out_of_their_own_range_are_told_when_they_stay_there(kind: Kind, known: dict[str, float]):
    config, state = config_of(), play(*running())
    spikes = [trained(200 + n, **known) for n in range(1, 6)]  # type: ignore[arg-type]
    for number in (1, 2):
        assert kinds(state, spikes[number - 1], config=config, recent=remembered([*STEADY, *spikes[:number]], config)) == []
    (out,) = holding(state, spikes[2], config=config, recent=remembered([*STEADY, *spikes[:3]], config))
    assert (out.kind, out.step) == (kind, 203)
    assert f"is {next(iter(known.values())):.4g} at step 203, usually" in out.line
    back = [*STEADY, *spikes[:3], *(trained(step) for step in range(204, 207))]
    assert kinds(state, back[-1], config=config, recent=remembered(back, config)) == []


def test_better_numbers_are_no_alarm():
    config, state = config_of(), play(*running())
    better = [*STEADY, *(trained(200 + n, loss=0.1, grad_norm=0.01, step_s=0.1) for n in range(1, 9))]
    assert kinds(state, better[-1], config=config, recent=remembered(better, config)) == []


def test_a_run_that_got_slower_than_itself():
    config, state = config_of(), play(*running())
    slower = [*STEADY, *(trained(200 + n, step_s=2.0) for n in range(1, 4))]
    (pace,) = holding(state, slower[-1], config=config, recent=remembered(slower, config))
    assert (pace.kind, pace.line) == (Kind.PACE, "8 tokens/s, 50% of its own usual 16")
    half = config_of(AlertsConfig(pace_below=0.5))
    assert kinds(state, slower[-1], config=half, recent=remembered(slower, half)) == []


def test_only_the_newest_thousand_samples_are_the_range():
    recent = remembered((trained(step, loss=9.0) for step in range(1, 1001)), config_of())
    recent = remembered((trained(step) for step in range(1001, 2001)), config_of(), since=recent)
    assert (len(recent.losses), set(recent.losses)) == (1000, {2.0})


def test_numbers_that_are_none_are_told_and_are_no_samples():
    config, state = config_of(), play(*running())
    look = trained(201, loss=float("nan"))
    recent = remembered([*STEADY, look], config)
    assert len(recent.losses) == len(STEADY)
    (told,) = lines(state, look, config=config, recent=recent)
    assert told == "step 201 is not finite: loss nan, gradient norm 1; its update was applied, and the weights are not finite either"
    withheld = StepMetrics(loss=1.0, grad_norm=float("inf"), tokens=1, skipped=True)
    assert lines(state, recorded=withheld, step=9) == ["step 9 is not finite: loss 1, gradient norm inf; its update was withheld"]


def test_goodput_is_judged_from_the_second_hour_on():
    state = play(*running())
    assert kinds(state, totals=totals(3599.0, productive=700.0)) == []
    (low,) = holding(state, totals=totals(3600.0, productive=720.0))
    assert (low.kind, low.line, low.command) == (Kind.GOODPUT, "goodput is 20.0%, below 50%", "braid goodput first")
    assert kinds(state, totals=totals(3600.0, productive=1800.0)) == []
    assert kinds(state, totals=totals(7200.0, productive=1800.0, stopped=3600.0)) == [], "what a person stopped is not counted"
