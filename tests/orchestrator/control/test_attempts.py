"""What one attempt leaves to the next, and what it does not."""

from orchestrator.control.causes import Cause
from orchestrator.control.events import NodesShort, NodesToLeave, ResumeRequested
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage
from tests.orchestrator.control.stories import (
    TERMS,
    committed,
    failed,
    fault,
    gone,
    lost_checkpoint,
    next_on,
    placed,
    play,
    resumed,
    running,
    seen,
    stepped,
    stop,
    submitted,
)

OF_ONE_ATTEMPT = ("given_back", "resumed_from", "wait_s", "wants_nodes", "save_within_s", "rejected", "lost_checkpoints")


def leave(attempt: int, node: str, within_s: float | None = None) -> NodesToLeave:
    return NodesToLeave(at_s=1.0, attempt=attempt, nodes=(node,), text="B cordoned: its fan rattles", within_s=within_s)


def short(attempt: int) -> NodesShort:
    return NodesShort(at_s=1.0, attempt=attempt, text="too few")


def of_one_attempt(state: RunState) -> list[object]:
    return [getattr(state, name) for name in OF_ONE_ATTEMPT]


def test_an_attempt_begins_with_nothing_of_the_one_before_and_nothing_that_it_waited_for():
    state = play(submitted(), placed(1, "ab"), resumed(1, 40, rejected=("step 60: bad",)), stepped(1, 41), lost_checkpoint(1, 80, "b"))
    state = play(stop(), leave(1, "b", within_s=9.0), ResumeRequested(at_s=1.0, terms=TERMS), state=state)
    state = play(failed(1, fault(Cause.PEER_LOST)), gone(1), leave(1, "b"), short(1), state=state)
    new = of_one_attempt(RunState())
    assert all(now != at_first for now, at_first in zip(of_one_attempt(state), new, strict=True))
    state = play(placed(2, "ab"), state=state)
    assert of_one_attempt(state) == new
    assert (state.stage, state.reason, state.committed_step) == (Stage.STARTING, "recovering from peer_lost: it broke", 40)


def test_a_run_that_is_short_of_nodes_once_more_says_so_once_more():
    state = play(submitted(), short(0), placed(1, "ab"), failed(1, fault(Cause.NODE_LOST, "a")), gone(1))
    *_, event = events_of(state, seen(alive="b"), 0.0)
    assert isinstance(event, NodesShort)


def test_a_node_that_is_to_be_left_comes_after_what_failed_before():
    state = play(*running(), committed(1, 5), failed(1, fault()), gone(1), *running(2, "ac"), leave(2, "c"))
    assert [(one.cause, one.attempt) for one in state.incidents] == [(Cause.KILLED, 1), (Cause.LEAVING, 2)]


def test_a_stop_that_fails_says_what_failed_now_and_not_what_failed_before():
    state = play(*running(), failed(1, fault()), gone(1), *running(2, "bc"), stop(), failed(2, fault(detail="it froze")), gone(2))
    assert state.reason == "stopped on request; its last checkpoint failed: it froze"


def test_a_run_that_hangs_again_and_again_where_no_node_is_behind_leaves_out_one_after_the_other():
    hung = fault(Cause.HUNG, None, rank=None)
    state = play(*running(), failed(1, hung, at_step=1), gone(1))
    assert next_on(state) == "ab"
    assert next_on(play(placed(2, "ab"), failed(2, hung, at_step=2), gone(2), state=state)) == "cb"
