"""One failure shows in several places: what explains what."""

from itertools import pairwise

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import NodesToLeave
from orchestrator.control.transition import transition
from orchestrator.messages import Outcome
from tests.orchestrator.control.stories import (
    TERMS,
    ended,
    failed,
    fault,
    gone,
    next_on,
    play,
    running,
)


def test_survivors_that_lost_a_peer_are_not_blamed_when_the_killed_worker_is_known():
    state = play(
        *running(),
        failed(1, fault(Cause.PEER_LOST, "a"), at_step=9, at_s=20.0),
        failed(1, fault(Cause.KILLED, "b", rank=1), at_step=8, at_s=20.1),
    )
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.rank) == (Cause.KILLED, "b", 1)
    assert (incident.at_s, incident.at_step) == (20.0, 9), "detected when the first sign was seen"
    assert incident.detected_after_s == pytest.approx(0.1), "rank 1 was last heard at 19.9"
    assert incident.strikes == {"B": 1}


def test_what_the_last_survivor_had_finished_is_what_a_failure_costs():
    for steps in ((8, 9), (9, 8)):
        seen_at = zip((Cause.KILLED, Cause.PEER_LOST), steps, strict=True)
        state = play(*running(), *(failed(1, fault(cause, "a"), at_step=step) for cause, step in seen_at))
        assert state.incidents[0].at_step == 9


def test_a_root_cause_that_was_alive_after_the_first_sign_was_detected_in_no_time():
    state = play(*running(), failed(1, fault(Cause.PEER_LOST, "a"), at_s=20.0), failed(1, fault(Cause.KILLED, "b"), at_s=21.0))
    assert state.incidents[0].detected_after_s == 0.0


def test_a_crash_beside_a_broken_gpu_in_the_same_look_bars_the_broken_one():
    crash, ecc = fault(Cause.CRASHED, "a"), fault(Cause.HARDWARE, "b", rank=1, detail="uncorrectable ECC error")
    for order in ((crash, ecc), (ecc, crash)):
        (incident,) = play(*running(), failed(1, *order)).incidents
        assert (incident.cause, incident.node, incident.cordons, incident.strikes) == (Cause.HARDWARE, "b", ("B",), {})


def test_a_power_cut_is_not_held_against_the_survivors_whose_watchdog_aborts_them():
    state = play(*running(), failed(1, fault(Cause.ABORTED, "a"), at_s=20.0), gone(1))
    assert state.incidents[0].strikes == {}
    assert state.wait_s == TERMS.recovery.peer_grace_s, "the root cause may still show"
    state = play(failed(1, fault(Cause.NODE_LOST, "b", rank=1), at_s=22.0), state=state)
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.strikes) == (Cause.NODE_LOST, "b", {"B": 1})
    assert next_on(state, "acd") == "ac"


def test_an_abort_after_a_lost_peer_explains_nothing_more():
    state = play(*running(), failed(1, fault(Cause.PEER_LOST, "a")), failed(1, fault(Cause.ABORTED, "b")))
    assert [one.strikes for one in state.incidents] == [{}]


def test_the_order_in_which_causes_explain_each_other():
    weakest_first = list(reversed(Cause))
    for weaker, stronger in pairwise(weakest_first):
        for order in ((weaker, stronger), (stronger, weaker)):
            state = play(*running(), *(failed(1, fault(cause, "a")) for cause in order))
            assert state.incidents[0].cause is stronger


def test_a_second_broken_node_beside_the_first_is_kept_and_acted_on():
    state = play(*running(), failed(1, fault(Cause.NODE_LOST, "a")), failed(1, fault(Cause.HARDWARE, "b", rank=1)))
    (incident,) = state.incidents
    assert (incident.cause, [one.cause for one in incident.also]) == (Cause.NODE_LOST, [Cause.HARDWARE])
    assert (incident.strikes, incident.cordons) == ({"A": 1}, ("B",))


def test_two_nodes_that_are_lost_at_once_have_a_strike_each():
    (incident,) = play(*running(), failed(1, fault(Cause.NODE_LOST, "a"), fault(Cause.NODE_LOST, "b"))).incidents
    assert (incident.node, incident.strikes) == ("a", {"A": 1, "B": 1})


@pytest.mark.parametrize("cause", [Cause.LEAVING, Cause.NODE_LOST, Cause.AGENT_LOST, Cause.KILLED, Cause.FROZEN])
def test_what_no_other_node_brings_about_counts_on_each_node(cause: Cause):
    (incident,) = play(*running(), failed(1, fault(cause, "a"), fault(cause, "b"))).incidents
    assert [(one.cause, one.node) for one in incident.faults] == [(cause, "a"), (cause, "b")]


def test_two_nodes_that_are_to_be_left_at_once_are_both_left():
    state = play(*running(), ended(1, Outcome.STOPPED, 5, told="ab"), gone(1))
    (incident,) = state.incidents
    assert [(one.cause, one.node) for one in incident.faults] == [(Cause.LEAVING, "a"), (Cause.LEAVING, "b")]
    assert next_on(state, "abcd") == "cd"


def test_workers_that_stop_though_nobody_was_seen_to_tell_them_are_restarted_where_they_were():
    state = play(*running(), ended(1, Outcome.STOPPED, 5), gone(1))
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.machine, incident.at_step, incident.strikes) == (Cause.LEAVING, None, None, 5, {})
    assert next_on(state) == "ab"


def test_what_a_dying_node_does_to_its_workers_counts_once_but_its_broken_gpu_counts_too():
    state = play(*running(), failed(1, fault(Cause.KILLED, "b"), fault(Cause.AGENT_LOST, "b"), fault(Cause.NODE_LOST, "b")))
    assert state.incidents[0].strikes == {"B": 1}
    state = play(failed(1, fault(Cause.HARDWARE, "b")), state=state)
    assert (state.incidents[0].strikes, state.incidents[0].cordons) == ({"B": 1}, ("B",))


@pytest.mark.parametrize("cause", [Cause.HARDWARE, Cause.DISK_FULL, Cause.KERNELS])
def test_what_is_broken_for_certain_counts_beside_the_loss_of_its_node(cause: Cause):
    (incident,) = play(*running(), failed(1, fault(Cause.NODE_LOST, "b"), fault(cause, "b", ranks=2))).incidents
    assert [one.cause for one in incident.faults] == [Cause.NODE_LOST, cause]
    assert incident.cordons == ("B",) or incident.strikes["B"] > 1


def test_the_same_fault_seen_again_is_not_news():
    state = play(*running(), failed(1, fault(Cause.CRASHED, "a")))
    assert transition(state, failed(1, fault(Cause.CRASHED, "a", detail="in other words"), at_s=9.0)) == state
    state = play(failed(1, fault(Cause.CRASHED, "a", ranks=2, nodes=2)), state=state)
    assert (state.incidents[0].num_ranks, state.incidents[0].strikes) == (2, {})
    assert transition(state, failed(1, fault(Cause.CRASHED, "a", detail="of one rank"))) == state, "fewer ranks say no more"


def test_a_worker_that_died_with_its_node_is_the_nodes_doing():
    state = play(
        *running(), failed(1, fault(Cause.KILLED, "b", rank=1), at_s=20.0), gone(1), failed(1, fault(Cause.NODE_LOST, "b"), at_s=21.5)
    )
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.at_s) == (Cause.NODE_LOST, "b", 20.0)


def test_a_node_that_leaves_later_does_not_explain_what_was_seen_on_another():
    state = play(*running(), failed(1, fault(Cause.CRASHED, "a")), gone(1), failed(1, fault(Cause.NODE_LOST, "b"), at_s=900.0))
    assert [(one.cause, one.strikes) for one in state.incidents] == [(Cause.CRASHED, {"A": 1})]


def test_what_was_recovered_from_is_not_explained_any_more():
    state = play(*running(), failed(1, fault(Cause.KILLED, "b")), gone(1), *running(2, "ac"))
    assert play(failed(2, fault(Cause.NODE_LOST, "a")), state=state).incidents[0].cause is Cause.KILLED


def test_a_run_that_ends_well_on_a_node_that_is_to_be_left_holds_nothing_against_those_that_break_after_it():
    leaving = play(*running(), NodesToLeave(at_s=9.0, attempt=1, nodes=("b",), text="B cordoned: bad"))
    finished = play(ended(1, Outcome.FINISHED, 1000), state=leaving)
    assert finished.incidents[0].recovered_after_s is not None
    assert transition(finished, failed(1, fault(Cause.HARDWARE, "a"))) is finished


def test_a_recovered_incident_stays_as_it_is_when_the_next_failure_is_explained():
    state = play(*running(), failed(1, fault(Cause.PEER_LOST, "a")), gone(1), *running(2, "ac"))
    state = play(failed(2, fault(Cause.KILLED, "c")), failed(2, fault(Cause.NODE_LOST, "c")), state=state)
    assert [one.cause for one in state.incidents] == [Cause.PEER_LOST, Cause.NODE_LOST]


def test_when_only_a_lost_peer_is_known_the_run_waits_for_the_root_cause():
    state = play(*running(), failed(1, fault(Cause.PEER_LOST, "a")), gone(1))
    assert (state.wait_s, next_on(state)) == (5.0, "ab"), "who lost a peer is under no suspicion"
    state = play(failed(1, fault(Cause.NODE_LOST, "b")), state=state)
    assert state.incidents[0].cause is Cause.NODE_LOST
