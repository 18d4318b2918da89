"""What a failure deserves: another attempt, when and where, or the end of the run."""

from dataclasses import replace

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.state import Stage
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
    stepped,
    submitted,
)


def test_a_crash_over_and_over_is_deterministic_only_where_other_nodes_were_tried():
    state = play(*running())
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.CRASHED, "a"), at_step=41), gone(attempt, spares=2), state=state)
    assert state.label == "recovering", "c and d idle"
    state = play(placed(4, "bc"), failed(4, fault(Cause.CRASHED, "b"), at_step=41), gone(4, spares=2), state=state)
    assert (state.label, state.reason) == ("failed", "crashed 4 times in a row at step 41 on 2 machines: it broke")


def test_a_crash_over_and_over_ends_the_run_where_there_is_no_other_node():
    state = play(*running())
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.CRASHED, "a"), at_step=41), gone(attempt, spares=0), state=state)
        assert state.label == ("failed" if attempt == 3 else "recovering")
    assert state.reason == "crashed 3 times in a row at step 41: it broke"


@pytest.mark.parametrize(("cause", "limit"), [(Cause.DIVERGED, 2), (Cause.CRASHED, 3), (Cause.GPU_OUT_OF_MEMORY, 3)])
def test_a_run_of_one_node_ends_as_deterministic_only_where_another_was_tried(cause: Cause, limit: int):
    alone, said = play(submitted(replace(TERMS, num_nodes=1, workers_per_node=2))), fault(cause, "a", ranks=2)
    for attempt in range(1, limit + 1):
        alone = play(placed(attempt, "a"), failed(attempt, said, at_step=41), gone(attempt, spares=1), state=alone)
    assert alone.label == "recovering", "b idles"
    on_b = placed(limit + 1, "b"), failed(limit + 1, replace(said, node="b", machine="B"), at_step=41), gone(limit + 1, spares=1)
    assert play(*on_b, state=alone).reason.endswith("in a row at step 41 on 2 machines: it broke")


def test_crashes_at_different_steps_are_not_deterministic():
    state = play(*running())
    for attempt, step in ((1, 41), (2, 43), (3, 41)):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.CRASHED, "a"), at_step=step), gone(attempt, spares=0), state=state)
    assert state.label == "recovering"


@pytest.mark.parametrize("steps", [(41, 42, 41), (42, 41, 41), (41, 42, 42)])
def test_crashes_at_one_step_are_deterministic_whether_or_not_another_rank_has_told_that_step(steps: tuple[int, ...]):
    state = play(*running())
    for attempt, step in enumerate(steps, start=1):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.CRASHED, "a"), at_step=step), gone(attempt, spares=0), state=state)
    assert state.label == "failed"


LIMITS = {
    Cause.KILLED: 3,
    Cause.CRASHED: 3,
    Cause.GPU_OUT_OF_MEMORY: 3,
    Cause.KERNELS: 3,
    Cause.HARDWARE: 3,
    Cause.CONFIG: 2,
    Cause.DIVERGED: 2,
    Cause.ABORTED: 5,
}


NO_STRIKES = (Cause.LEAVING, Cause.FENCED, Cause.DIVERGED, Cause.ACCESS, Cause.STORE, Cause.ABORTED, Cause.PEER_LOST)


@pytest.mark.parametrize("cause", Cause)
def test_how_often_each_cause_may_come_in_a_row_at_the_same_step(cause: Cause):
    patient = replace(TERMS, recovery=replace(TERMS.recovery, max_restarts=7, max_cordons=100))
    state = play(submitted(patient))
    for attempt in range(1, 10):
        if state.stage is not Stage.ENDED:
            state = play(placed(attempt, "ab"), failed(attempt, fault(cause, "ab"[attempt % 2])), gone(attempt), state=state)
    expected = LIMITS.get(cause, None if cause in (Cause.LEAVING, Cause.ACCESS) else 8)
    assert state.attempt == (expected or 9)


@pytest.mark.parametrize(
    ("cause", "strikes"),
    [
        (Cause.NODE_LOST, 1),
        (Cause.DISK_FULL, 1),
        (Cause.KERNELS, 3),
        (Cause.CUT_OFF, 1),
        (Cause.AGENT_LOST, 1),
        (Cause.KILLED, 1),
        (Cause.FROZEN, 2),
        (Cause.CONFIG, 1),
        (Cause.GPU_OUT_OF_MEMORY, 1),
        (Cause.CRASHED, 1),
        (Cause.HUNG, 1),
        *((cause, 0) for cause in NO_STRIKES),
    ],
)
def test_what_is_held_against_a_machine(cause: Cause, strikes: int):
    (incident,) = play(*running(), failed(1, fault(cause, "a"))).incidents
    assert (incident.strikes, incident.cordons) == ({"A": strikes} if strikes else {}, ())


def test_what_every_rank_says_is_held_against_no_machine():
    for cause in (Cause.CRASHED, Cause.GPU_OUT_OF_MEMORY, Cause.CONFIG):
        (incident,) = play(*running(), failed(1, fault(cause, "a", ranks=2, nodes=2))).incidents
        assert incident.strikes == {}


def test_what_comes_from_a_node_for_certain_is_held_against_it_though_every_rank_is_there():
    (incident,) = play(*running(), failed(1, fault(Cause.HARDWARE, "a", ranks=2))).incidents
    assert incident.cordons == ("A",)
    (incident,) = play(*running(), failed(1, fault(Cause.KILLED, "a", ranks=2))).incidents
    assert incident.strikes == {"A": 1}


def test_a_recovery_takes_no_less_than_no_time_whatever_the_clocks_of_two_controllers_say():
    state = play(*running(), failed(1, fault(), at_s=500.0), gone(1), placed(2, "bc"), stepped(2, 1, at_s=20.0))
    assert state.incidents[0].recovered_after_s == 0.0


def test_an_attempt_that_never_said_where_it_began_began_at_the_beginning():
    state = play(submitted(), placed(1, "ab"), failed(1, fault(), at_step=9), gone(1), placed(2, "bc"), stepped(2, 1))
    assert (state.incidents[0].resumed_from_step, state.incidents[0].steps_replayed) == (0, 9)


def test_a_checkpoint_newer_than_the_last_step_that_was_heard_of_replays_nothing():
    state = play(submitted(), placed(1, "ab"), failed(1, fault(), at_step=9), gone(1), placed(2, "bc"), resumed(2, 20), stepped(2, 21))
    assert (state.incidents[0].resumed_from_step, state.incidents[0].steps_replayed) == (20, 0)


def test_a_configuration_error_of_every_rank_ends_the_run_at_once():
    state = play(submitted(), placed(1, "ab"), failed(1, fault(Cause.CONFIG, ranks=2, nodes=2)), gone(1))
    assert (state.label, state.restarts, state.reason) == ("failed", 0, "config: it broke; no restart can help")


def test_a_configuration_error_on_two_nodes_ends_the_run_and_one_of_two_ranks_on_one_node_does_not():
    large = play(submitted(replace(TERMS, workers_per_node=2, world_size=4)), placed(1, "ab"))
    assert play(failed(1, fault(Cause.CONFIG, ranks=2, nodes=2)), gone(1), state=large).label == "failed"
    assert play(failed(1, fault(Cause.CONFIG, ranks=2, nodes=1)), gone(1), state=large).label == "recovering"


def test_a_configuration_error_of_every_rank_ends_a_run_on_one_node_too():
    alone = play(submitted(replace(TERMS, num_nodes=1, workers_per_node=2)), placed(1, "a"))
    assert play(failed(1, fault(Cause.CONFIG, ranks=2)), gone(1), state=alone).label == "failed"
    assert play(failed(1, fault(Cause.CONFIG, ranks=1)), gone(1), state=alone).label == "recovering"


def test_a_configuration_error_of_one_rank_is_a_fault_of_its_node():
    state = play(submitted(), placed(1, "ab"), failed(1, fault(Cause.CONFIG, "a", detail="dataset is missing")), gone(1))
    assert (state.label, next_on(state)) == ("recovering", "cb")
    state = play(placed(2, "bc"), failed(2, fault(Cause.CONFIG, "b", detail="dataset is missing")), gone(2), state=state)
    assert state.reason == "config 2 times in a row at step 0 on 2 machines: dataset is missing"


def test_a_configuration_error_of_one_rank_is_tried_once_more_where_there_is_no_other_node():
    state = play(submitted(), placed(1, "ab"), failed(1, fault(Cause.CONFIG, "a")), gone(1, spares=0))
    assert state.label == "recovering"
    assert play(placed(2, "ab"), failed(2, fault(Cause.CONFIG, "a")), gone(2, spares=0), state=state).label == "failed"


def test_a_crash_of_every_rank_at_once_is_tried_again():
    state = play(*running(), failed(1, fault(Cause.CRASHED, ranks=2, nodes=2)), gone(1))
    assert (state.label, state.restarts) == ("recovering", 1)


def test_the_first_restart_is_immediate_and_further_ones_back_off_until_a_checkpoint_shows_progress():
    state = play(*running())
    waits = []
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
        waits.append(state.wait_s)
    assert waits == [0.0, 10.0, 20.0]
    state = play(placed(4, "ab"), resumed(4, 0), stepped(4, 1), committed(4, 50), failed(4, fault(), at_step=60), gone(4), state=state)
    assert (state.restarts_in_row, state.wait_s, state.restarts) == (1, 0.0, 4)


def test_after_a_new_checkpoint_the_first_restart_is_immediate_though_the_run_failed_there_before():
    state = play(*running(), committed(1, 60), failed(1, fault(Cause.STORE), at_step=60), gone(1))
    state = play(placed(2, "ab"), resumed(2, 40, rejected=("step 60: bad",)), stepped(2, 41), committed(2, 60), state=state)
    assert play(failed(2, fault(Cause.STORE), at_step=60), gone(2), state=state).wait_s == 0.0


def test_the_restart_budget_ends_a_run_that_gets_nowhere():
    state = play(*running())
    for attempt in (1, 2, 3, 4):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
    assert state.reason == "recovery.max_restarts=3 restarts without a new checkpoint; last: store: it broke"


def test_a_node_that_is_to_be_left_ends_no_run_whatever_it_has_been_through():
    state = play(*running())
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
    state = play(placed(4, "ab"), failed(4, fault(Cause.LEAVING), at_step=4), gone(4), state=state)
    assert (state.stage, state.restarts_in_row) == (Stage.WAITING, 3)


def test_a_checkpoint_whose_commit_was_told_to_nobody_is_progress_all_the_same():
    state = play(*running())
    for attempt in (1, 2):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.STORE), at_step=attempt), gone(attempt), state=state)
    assert state.restarts_in_row == 2
    state = play(placed(3, "ab"), resumed(3, 200), state=state)
    assert (state.restarts_in_row, state.committed_step, state.waited_s) == (0, 200, 0.0)


def test_a_store_that_refuses_gets_time_instead_of_a_number_of_tries():
    terms = replace(TERMS, recovery=replace(TERMS.recovery, access_timeout_s=60.0))
    state = play(submitted(terms))
    waits = []
    for attempt in range(1, 10):
        if state.stage is not Stage.ENDED:
            state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.ACCESS, detail="expired")), gone(attempt), state=state)
            waits.append(state.wait_s)
    assert waits == [0.0, 10.0, 20.0, 25.0, 25.0, 0.0], "the sixth ended it"
    assert state.reason == "access: refused for longer than recovery.access_timeout_s=60: expired"
    assert state.restarts_in_row == 0


def test_a_store_that_refuses_gets_no_more_than_its_time():
    state = play(submitted(replace(TERMS, recovery=replace(TERMS.recovery, access_timeout_s=30.0))))
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.ACCESS)), gone(attempt), state=state)
    assert (state.stage, state.waited_s) == (Stage.WAITING, 30.0)
    assert play(placed(4, "ab"), failed(4, fault(Cause.ACCESS)), gone(4), state=state).label == "failed"


def test_workers_that_are_told_to_leave_again_and_again_are_started_ever_less_often():
    """Something ends them as soon as they are there. It is no failure of theirs, and ends no run."""
    state = play(submitted())
    waits = []
    for attempt in range(1, 6):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.LEAVING)), gone(attempt), state=state)
        waits.append(state.wait_s)
    assert waits == [0.0, 10.0, 20.0, 25.0, 25.0]
    assert state.restarts_in_row == 0


def test_hardware_faults_cordon_the_machine():
    state = play(*running(), failed(1, fault(Cause.HARDWARE, "a")), gone(1))
    assert (state.incidents[0].cordons, state.incidents[0].strikes) == (("A",), {})


def test_a_run_cordons_only_so_many_machines_by_itself():
    terms = replace(TERMS, recovery=replace(TERMS.recovery, max_cordons=2, max_restarts=9))
    state = play(submitted(terms))
    for attempt, node in enumerate("abcd", start=1):
        state = play(placed(attempt, f"{node}z"), failed(attempt, fault(Cause.HARDWARE, node), at_step=attempt), gone(attempt), state=state)
    assert [one.cordons for one in state.incidents] == [("A",), ("B",), (), ()]
    assert [one.strikes for one in state.incidents] == [{}, {}, {"C": 3}, {"D": 3}]


def test_a_hardware_fault_that_follows_the_run_from_machine_to_machine_is_none():
    state = play(submitted())
    for attempt, node in enumerate("abc", start=1):
        state = play(placed(attempt, f"{node}z"), failed(attempt, fault(Cause.HARDWARE, node), at_step=7), gone(attempt), state=state)
    assert state.label == "failed"
    assert state.reason == (
        "hardware 3 times in a row at step 7 on 3 machines: it broke; it may not be the hardware: `braid nodes clear` gives back A, B, C"
    )


def test_full_disks_cordon_nobody_and_end_the_run_instead_of_leaving_it_to_wait_for_ever():
    state = play(submitted())
    for attempt, node in enumerate("abcd", start=1):
        if state.stage is not Stage.ENDED:
            state = play(placed(attempt, f"{node}z"), failed(attempt, fault(Cause.DISK_FULL, node)), gone(attempt), state=state)
    assert state.label == "failed"
    assert not any(one.cordons for one in state.incidents)


def test_a_run_that_diverges_again_at_the_same_step_ends_though_nodes_are_free():
    """Every rank says so: another node would not help."""
    state = play(*running())
    for attempt in (1, 2):
        diverged = fault(Cause.DIVERGED, "a", ranks=2, nodes=2, detail="loss nan")
        state = play(placed(attempt, "ab"), failed(attempt, diverged, at_step=41), gone(attempt, spares=2), state=state)
        assert state.label == ("failed" if attempt == 2 else "recovering")
    assert state.reason == "diverged 2 times in a row at step 41: loss nan"


def test_a_run_that_diverges_ends_at_once_where_it_is_told_to():
    strict = replace(TERMS, recovery=replace(TERMS.recovery, on_nonfinite="fail"))
    diverged = fault(Cause.DIVERGED, "a", ranks=2, nodes=2, detail="loss nan")
    state = play(submitted(strict), placed(1, "ab"), failed(1, diverged), gone(1))
    assert (state.label, state.restarts, state.reason) == ("failed", 0, "diverged: loss nan")
