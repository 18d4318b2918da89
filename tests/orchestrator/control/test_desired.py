"""What the cluster is asked to look like in each stage of a run."""

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.desired import Desired, desired
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage
from orchestrator.messages import Mode, Outcome
from orchestrator.records.nodes import Standing
from tests.orchestrator.control.stories import (
    agent,
    ended,
    failed,
    fault,
    gone,
    placed,
    play,
    rank,
    running,
    see,
    seen,
    stepped,
    stop,
    submitted,
)

STARTING = play(submitted(), placed(1, "ab"))
RUNNING = play(*running())


def test_a_run_without_an_attempt_holds_nothing():
    assert desired("r", RunState()) == Desired()
    assert desired("r", play(submitted())).held == ()


def test_an_attempt_that_starts_holds_its_nodes_and_runs_there():
    assert desired("r", STARTING) == Desired(
        held=("a", "b"),
        attempt=1,
        mode=Mode.RUN,
        placement=("a", "b"),
        workers_per_node=1,
        world_size=2,
        config_version=1,
        may_start=True,
    )


@pytest.mark.parametrize(
    ("state", "mode", "may_start"),
    [
        (RUNNING, Mode.RUN, False),
        (play(stop(), state=RUNNING), Mode.SAVE, False),
        (play(failed(1, fault()), state=RUNNING), Mode.KILL, False),
        (play(failed(1, fault()), gone(1), state=RUNNING), Mode.KILL, False),
    ],
)
def test_what_workers_are_to_do(state: RunState, mode: Mode, may_start: bool):
    wanted = desired("r", state)
    assert (wanted.mode, wanted.may_start, wanted.held, wanted.attempt) == (mode, may_start, ("a", "b"), 1)


def test_an_ended_run_holds_nothing():
    over = desired("r", play(ended(1, Outcome.FINISHED, 9), gone(1), state=RUNNING))
    assert (over.held, over.placement, over.mode, over.attempt) == ((), (), Mode.KILL, 1)
    assert (over.workers_per_node, over.world_size, over.config_version, over.may_start, over.wants_evidence) == (0, 0, 0, False, False)


def test_between_attempts_a_machine_that_was_cordoned_is_given_back():
    """By a person, or by the run itself: it waits, and will not start there, so others may have its GPUs."""
    look = seen(agent("a"), agent("b"), standings={"A": Standing(cordoned="it is to be moved")})
    draining = play(failed(1, fault(Cause.PEER_LOST, None)), state=RUNNING)
    assert desired("r", see(draining, seen(agent("a", rank(0)), agent("b"), standings=look.standings))).held == ("a", "b")
    waiting = see(play(gone(1), state=draining), look)
    assert (waiting.stage, desired("r", waiting).held, desired("r", waiting).placement) == (Stage.WAITING, ("b",), ("a", "b"))
    assert list(events_of(waiting, look, 0.0)) == [], "once"
    assert desired("r", play(placed(2, "ab"), state=waiting)).held == ("a", "b"), "somebody cleared it meanwhile"


def test_evidence_is_wanted_of_what_stands_still_before_it_is_killed():
    for cause in Cause:
        draining = play(failed(1, fault(cause)), state=RUNNING)
        assert desired("r", draining).wants_evidence == (cause in (Cause.HUNG, Cause.FROZEN))
        assert not desired("r", play(gone(1), state=draining)).wants_evidence


def test_a_cordon_is_recorded_as_soon_as_the_attempt_is_over():
    draining = play(failed(1, fault(Cause.HARDWARE, "a", detail="Xid 79"), at_s=5.0), state=RUNNING)
    assert desired("r", draining).findings == ()
    (finding,) = desired("r", play(gone(1), state=draining)).findings
    assert (finding.machine, finding.run, finding.attempt, finding.cause, finding.detail) == ("A", "r", 1, "hardware", "Xid 79")
    assert (finding.cordons, finding.strikes, finding.at_s) == (True, 0, 5.0)


def test_a_strike_is_recorded_once_no_later_sign_can_move_it():
    state = play(failed(1, fault(Cause.KILLED, "a"), fault(Cause.FROZEN, "b")), gone(1), state=RUNNING)
    assert desired("r", state).findings == ()
    state = play(placed(2, "bc"), state=state)
    assert [(one.machine, one.strikes, one.cause) for one in desired("r", state).findings] == [("A", 1, "killed"), ("B", 2, "frozen")]
    assert not any(one.cordons for one in desired("r", state).findings)
    assert len(desired("r", play(stepped(2, 1), state=state)).findings) == 2


def test_what_ended_the_run_is_recorded_too():
    state = play(failed(1, fault(Cause.NODE_LOST, "a")), stop(), gone(1), state=RUNNING)
    assert [one.machine for one in desired("r", state).findings] == ["A"]
