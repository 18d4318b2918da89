"""What a person asks for of a run that is ending or has ended, and what becomes of it."""

from dataclasses import replace

from orchestrator.control.causes import Cause
from orchestrator.control.events import AttemptStarted, FoundDead, NodesShort, NodesToLeave, ResumeRequested
from orchestrator.control.history import read_state
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage
from orchestrator.messages import Outcome
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import TERMS, ended, failed, fault, gone, placed, play, running, seen, stop, submitted
from tests.orchestrator.control.test_controller import FakeCluster, build, kinds

RESUME = ResumeRequested(at_s=1.0, terms=TERMS)


def worn_out() -> RunState:
    """A run that has used up its restarts, three of them."""
    state = play(submitted())
    for attempt in (1, 2, 3, 4):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
    return state


def begins_at_once(state: RunState) -> bool:
    return any(isinstance(event, AttemptStarted) for event in events_of(state, seen(), 0.0))


def test_a_resumed_run_has_as_many_restarts_as_a_new_one():
    state = play(RESUME, state=worn_out())
    assert (state.label, state.reason, state.ending) == ("queued", "", None)
    assert (state.waited_s, state.wait_s) == (0.0, 0.0)
    waits = []
    for attempt in (5, 6, 7):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
        waits.append(state.wait_s)
    assert waits == [0.0, 10.0, 20.0]
    state = play(placed(8, "ab"), failed(8, fault(Cause.STORE), at_step=8), gone(8), state=state)
    assert (state.label, state.restarts) == ("failed", 6)


def test_a_resumed_run_that_the_store_refuses_has_all_its_time_again():
    terms = replace(TERMS, recovery=replace(TERMS.recovery, access_timeout_s=5.0))
    state = play(submitted(terms))
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.ACCESS)), gone(attempt), state=state)
    assert state.label == "failed"
    state = play(ResumeRequested(at_s=1.0, terms=terms), placed(4, "ab"), failed(4, fault(Cause.ACCESS)), gone(4), state=state)
    assert state.stage is Stage.WAITING


def test_a_resumed_run_may_take_as_many_machines_out_of_use_as_a_new_one():
    terms = replace(TERMS, recovery=replace(TERMS.recovery, max_cordons=1))
    state = play(submitted(terms), placed(1, "ab"), failed(1, fault(Cause.HARDWARE, "a")), gone(1), stop())
    state = play(ResumeRequested(at_s=1.0, terms=terms), placed(2, "bc"), failed(2, fault(Cause.HARDWARE, "b")), state=state)
    assert [one.cordons for one in state.incidents] == [("A",), ("B",)]


def test_a_run_that_was_stopped_while_it_waited_begins_at_once_when_it_is_resumed():
    waiting = play(*running(), failed(1, fault(Cause.PEER_LOST)), gone(1))
    assert not begins_at_once(waiting)
    assert begins_at_once(play(stop(), RESUME, state=waiting))


def test_a_resumed_run_says_again_what_it_waits_for():
    short = NodesShort(at_s=1.0, attempt=0, text="too few")
    state = play(submitted(), short, stop(), RESUME)
    assert (state.reason, state.wants_nodes) == ("", False)
    (event,) = events_of(state, seen(alive="a"), 0.0)
    assert isinstance(event, NodesShort)


def test_a_stop_while_a_failed_attempt_is_being_ended_can_be_taken_back():
    stopping = play(*running(), failed(1, fault()), stop())
    assert (stopping.label, stopping.reason) == ("stopping", "stopped on request")
    assert play(gone(1), state=stopping).label == "stopped"
    assert (play(RESUME, state=stopping).label, play(RESUME, state=stopping).reason) == ("recovering", "")
    state = play(RESUME, gone(1), state=stopping)
    assert (state.label, state.reason, state.stop_wanted) == ("recovering", "recovering from killed: it broke", False)


def test_a_run_that_has_finished_is_neither_stopped_nor_resumed_any_more():
    finished = play(*running(), ended(1, Outcome.FINISHED, 1000), stop())
    assert finished.reason == "finished at step 1000"
    assert play(RESUME, state=finished) is finished
    assert play(gone(1), state=finished).label == "finished"


def test_a_run_that_has_ended_is_not_found_dead_any_more():
    for over in (worn_out(), play(*running(), ended(1, Outcome.FINISHED, 1000), gone(1))):
        assert play(FoundDead(at_s=9.0), state=over) is over


def test_a_run_that_saves_already_need_not_be_told_to_leave():
    leave = NodesToLeave(at_s=1.0, attempt=1, nodes=("b",), text="B cordoned: bad", within_s=None)
    for state in (play(*running(), stop()), play(*running(), failed(1, fault()))):
        assert play(leave, state=state) is state


def test_a_stop_that_is_taken_back_is_not_judged_by_what_failed_before():
    state = play(*running(), failed(1, fault()), gone(1), *running(2, "bc"), stop(now=True), RESUME, gone(2))
    assert (state.stage, state.wait_s, state.restarts_in_row, state.restarts) == (Stage.WAITING, 0.0, 1, 2)


def test_a_stop_of_a_run_that_starts_can_be_taken_back():
    state = play(submitted(), placed(1, "ab"), stop(), RESUME, gone(1))
    assert (state.stage, state.reason, state.ending, state.stop_wanted) == (Stage.WAITING, "", None, False)


def test_a_run_that_was_found_dead_resumes_like_one_that_was_stopped():
    state = play(*running(), FoundDead(at_s=9.0))
    assert (state.label, state.reason, state.stop_wanted) == ("stopped", "stopped on request", True)
    assert (play(RESUME, state=state).label, play(RESUME, state=state).stop_wanted) == ("queued", False)


def test_what_is_asked_for_in_the_moment_of_the_end_is_left_to_another_controller():
    cluster = FakeCluster(store := MemoryStore())
    controller = build(store, cluster)
    controller._open()
    while read_state(store).stage is not Stage.DRAINING:
        controller._tick()
    controller.request(RESUME)
    assert controller.run().label == "finished"
    assert "ResumeRequested" not in kinds(store)
