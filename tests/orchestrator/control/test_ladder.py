"""How far a failed run goes: to the same nodes, to others, or from node to node; and what its incident tells of it."""

from dataclasses import replace

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import ResumeRequested, TrainingResumed
from orchestrator.control.history import open_history, read_state
from orchestrator.control.observe import next_placement
from orchestrator.control.state import RunState
from orchestrator.messages import Source
from orchestrator.records.keys import JOURNAL
from orchestrator.records.nodes import Standing
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import (
    TERMS,
    committed,
    failed,
    fault,
    gone,
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

OF_A_PROCESS = (Cause.KILLED, Cause.FENCED, Cause.DIVERGED, Cause.STORE, Cause.GPU_OUT_OF_MEMORY, Cause.CRASHED, Cause.ABORTED)


def from_memory(attempt: int, step: int) -> TrainingResumed:
    return TrainingResumed(at_s=0.0, attempt=attempt, from_step=step, source=Source.MEMORY)


def recovered(attempt: int, step: int, on: str = "ab") -> RunState:
    """Of an attempt whose worker on b was killed at the step; the next one goes on from the memory of its nodes."""
    return play(*running(), failed(attempt, fault(node="b", rank=1), at_step=step), gone(attempt), *goes_on(attempt + 1, step, on))


def goes_on(attempt: int, step: int, on: str = "ab"):
    return placed(attempt, on), from_memory(attempt, step - 2), stepped(attempt, step - 1, at_s=90.0)


# --- the first rung: the same nodes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", OF_A_PROCESS)
def test_trouble_of_a_process_is_answered_on_the_same_nodes_though_another_is_free(cause: Cause):
    assert next_on(play(*running(), failed(1, fault(cause, "a")), gone(1))) == "ab"


def test_nobody_is_left_because_peers_were_lost_or_all_say_the_same():
    large = play(submitted(replace(TERMS, num_nodes=3, world_size=3)), placed(1, "abc"))
    for one in (fault(Cause.PEER_LOST, "a"), fault(Cause.ABORTED, "a", ranks=2, nodes=2), fault(Cause.ACCESS, "a", ranks=3, nodes=3)):
        assert next_on(play(failed(1, one), gone(1), state=large), "abcd") == "abc"


def test_what_all_say_alike_moves_nobody_however_often_it_comes():
    state = play(*running())
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE, "a", ranks=2, nodes=2), at_step=attempt), state=state)
        state = play(gone(attempt), state=state)
        assert next_on(state) == "ab"


def test_the_incident_tells_that_it_was_answered_on_the_same_nodes_from_memory():
    (incident,) = recovered(1, 50).incidents
    assert (incident.source, incident.left, incident.resumed_from_step, incident.steps_replayed) == (Source.MEMORY, (), 48, 2)


# --- the second: without the node ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", sorted({*Cause} - {*OF_A_PROCESS, Cause.PEER_LOST}, key=lambda cause: cause.value))
def test_a_node_that_is_at_fault_itself_is_left_at_once(cause: Cause):
    state = play(*running(), failed(1, fault(cause, "a")), gone(1))
    assert (next_on(state), next_on(state, "ab")) == ("cb", "ab"), "and used where no other is free"


@pytest.mark.parametrize("cause", OF_A_PROCESS)
def test_a_node_whose_process_fails_before_the_run_has_recovered_is_left(cause: Cause):
    state = play(*running(), failed(1, fault(cause, "a")), gone(1))
    state = play(placed(2, "ab"), failed(2, fault(cause, "a")), gone(2), state=state)
    assert next_on(state) == "cb"


def test_two_processes_of_different_nodes_that_fail_one_after_the_other_leave_none():
    state = play(*running(), failed(1, fault(node="a")), gone(1), placed(2, "ab"), failed(2, fault(node="b")), gone(2))
    assert next_on(state) == "ab"


def test_a_killer_that_comes_back_after_some_steps_has_one_more_run_on_its_node_for_each_checkpoint():
    again = failed(2, fault(node="b", rank=1), at_step=90), gone(2)
    assert next_on(play(*again, state=recovered(1, 50))) == "ac", "snapshots are no progress that outlives the node"
    assert next_on(play(committed(2, 60), *again, state=recovered(1, 50))) == "ab"


def test_a_machine_that_piled_up_strikes_is_left_at_its_next_trouble_and_not_for_that_of_another():
    struck = {"B": Standing(strikes=2)}
    state = play(*running(), failed(1, fault(node="b")), gone(1))
    assert next_on(state, standings=struck) == "ac"
    assert next_on(state, standings={"B": Standing(strikes=1)}) == "ab"
    assert next_on(play(*running(), failed(1, fault(node="a")), gone(1)), standings=struck) == "ab"


def test_a_run_that_a_person_resumes_holds_no_node_and_takes_those_without_strikes():
    state = play(*running(), stop(now=True), gone(1))
    assert next_on(play(ResumeRequested(at_s=1.0, terms=TERMS), state=state), standings={"B": Standing(strikes=1)}) == "ac"


@pytest.mark.parametrize("cause", [Cause.CRASHED, Cause.STORE, Cause.ABORTED, Cause.DIVERGED, Cause.ACCESS, Cause.HUNG, Cause.FENCED])
def test_on_a_run_of_one_node_what_all_say_may_be_that_nodes_fault(cause: Cause):
    alone = play(submitted(replace(TERMS, num_nodes=1, workers_per_node=2)))
    said, on = fault(cause, "a", ranks=2), ["a"]
    for attempt in (1, 2):
        alone = play(placed(attempt, on[-1]), failed(attempt, said), gone(attempt), state=alone)
        on += [one.node for one in next_placement(alone, seen(alive="ab", slots=2))]
    assert on == ["a", "a", "b"]


def test_who_was_told_to_leave_has_not_failed():
    """Its process may be killed once more before the node is left for it."""
    state = play(*running(), failed(1, fault(Cause.LEAVING, "a")), gone(1), placed(2, "ab"), stepped(2, 1))
    assert next_on(play(failed(2, fault(node="a"), at_step=1), gone(2), state=state)) == "ab"


def test_the_incident_tells_which_machines_were_left():
    state = play(*running(), failed(1, fault(node="b")), gone(1), placed(2, "ab"), failed(2, fault(node="b")), gone(2))
    state = play(placed(3, "ac"), resumed(3, 0), stepped(3, 1), state=state)
    assert [(one.left, one.source) for one in state.incidents] == [(("B",), Source.STORE)] * 2


# --- the third: in turn --------------------------------------------------------------------------------------------------


def test_failures_that_point_nowhere_give_one_place_after_the_other_to_another_node():
    lost, state, on = fault(Cause.PEER_LOST, "a"), play(*running()), ["ab"]
    for attempt in (1, 2, 3):
        state = play(placed(attempt, on[-1]), failed(attempt, lost, at_step=attempt), gone(attempt), state=state)
        on.append(next_on(state))
    assert on == ["ab", "ab", "cb", "ca"]


def test_a_failure_that_points_at_a_process_is_no_turn():
    state = play(*running(), failed(1, fault(Cause.PEER_LOST, "a")), gone(1), placed(2, "ab"), failed(2, fault(node="b")), gone(2))
    assert (state.restarts_in_row, next_on(state)) == (2, "ab")


# --- what was stored before ----------------------------------------------------------------------------------------------


def test_a_journal_that_says_from_memory_by_yes_or_no_is_read():
    store = MemoryStore()
    history = open_history(store)
    for event in (*running(), failed(1, fault(node="b"), at_step=50), gone(1), *goes_on(2, 50)):
        history.append(event)
    for info in store.list(JOURNAL):
        entry = store.get(info.key).replace(b'"source": "memory"', b'"from_memory": true')
        store.put(info.key, entry.replace(b'"source": {"is": "memory"}', b'"from_memory": {"is": true}'))
    state = read_state(store)
    assert (state.source, [one.source for one in state.incidents]) == (Source.MEMORY, [Source.MEMORY])
    after = open_history(store)
    after.append(failed(2, fault(Cause.NODE_LOST, "a"), at_step=60))
    after.append(gone(2))
    after.append(placed(3, "cb"))
    assert read_state(store) == after.state
    assert after.state.source is Source.STORE, "until it is known"
