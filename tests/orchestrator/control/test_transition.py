"""A run's life as stories: what happened, and what the controller then does."""

from dataclasses import replace

import pytest

from orchestrator.control.actions import SaveAndStop, StartWorkers, StopWorkers
from orchestrator.control.causes import Cause
from orchestrator.control.events import ControllerStarted, ResumeRequested
from orchestrator.control.state import Ending, RunState, Stage
from orchestrator.control.transition import transition
from orchestrator.messages import Outcome
from tests.orchestrator.control.stories import (
    TERMS,
    committed,
    ended,
    failed,
    gone,
    node_lost,
    nodes,
    play,
    resumed,
    running,
    stepped,
    stop,
    submitted,
    waited,
)


def start(attempt: int, on: str) -> StartWorkers:
    return StartWorkers(attempt=attempt, nodes=tuple(on), workers_per_node=1, world_size=2, config_version=1)


def test_a_run_waits_until_there_are_nodes_enough():
    state, actions = play(submitted(), nodes("a"))
    assert state.label == "queued"
    assert state.reason == "waiting for nodes: needs 2 with 1 free slots, has 1"
    assert actions == []

    state, actions = play(nodes("b"), state=state)
    assert (state.label, state.reason, actions) == ("starting", "", [start(1, "ab")])


def test_a_run_from_submission_to_its_end():
    state, actions = play(*running(), committed(1, 1000), ended(1, Outcome.FINISHED, 1000))
    assert actions == [start(1, "ab"), StopWorkers(attempt=1)]
    state, _ = play(gone(1), state=state)
    assert (state.label, state.reason, state.restarts) == ("finished", "finished at step 1000", 0)


def test_a_killed_worker_restarts_every_worker_from_the_newest_checkpoint():
    state, actions = play(*running(), committed(1, 500), failed(1, "b", at_step=520, rank=1, at_s=100.0))
    assert (state.label, actions[-1]) == ("recovering", StopWorkers(attempt=1))

    state, actions = play(gone(1, at_s=101.0), state=state)
    assert actions == [start(2, "ac")], "b has a strike, so the spare is preferred"
    assert (state.label, state.reason) == ("recovering", "recovering from killed: it broke")

    state, _ = play(resumed(2, 500), stepped(2, 501, at_s=110.0), state=state)
    (incident,) = state.incidents
    assert state.label == "running"
    assert (incident.cause, incident.rank, incident.node, incident.detected_after_s) == (Cause.KILLED, 1, "b", 0.2)
    assert (incident.recovered_after_s, incident.resumed_from_step, incident.steps_replayed) == (10.0, 500, 20)


def test_a_lost_node_is_replaced_by_the_spare():
    state, actions = play(*running(), node_lost("a", at_step=7), gone(1))
    assert actions[-1] == start(2, "bc")
    assert (state.incidents[0].cause, state.incidents[0].node, state.incidents[0].rank) == (Cause.NODE_LOST, "a", 0)


def test_a_lost_spare_disturbs_nobody():
    state, actions = play(*running(), node_lost("c"))
    assert (state.label, actions, state.incidents) == ("running", [start(1, "ab")], ())


def test_without_a_spare_the_run_waits_for_a_node_and_goes_on_when_one_joins():
    state, actions = play(*running(on="ab"), node_lost("a", at_step=7), gone(1))
    assert actions[-1] == StopWorkers(attempt=1)
    assert (state.label, state.stage) == ("recovering", Stage.WAITING)
    assert "has 1" in state.reason

    _, actions = play(nodes("d", at_s=50.0), state=state)
    assert actions == [start(2, "bd")]


def test_survivors_that_lost_a_peer_are_not_blamed_when_the_killed_worker_is_known():
    state, _ = play(
        *running(), failed(1, "a", Cause.PEER_LOST, at_step=9, at_s=20.0), failed(1, "b", Cause.KILLED, at_step=8, rank=1, at_s=20.1)
    )
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.rank) == (Cause.KILLED, "b", 1)
    assert (incident.at_s, incident.at_step) == (20.0, 9), "detected when the first sign was seen"
    assert incident.detected_after_s == pytest.approx(0.1), "rank 1 was last heard at 19.9"


def test_a_worker_that_died_with_its_node_is_the_nodes_doing():
    state, actions = play(*running(), failed(1, "b", Cause.KILLED, rank=1, at_s=20.0), gone(1, at_s=20.1))
    assert actions[-1] == start(2, "ac")
    state, actions = play(node_lost("b", at_s=21.5), stepped(2, 1, at_s=30.0), state=state)
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.rank, incident.at_s) == (Cause.NODE_LOST, "b", 1, 20.0)
    assert (state.label, actions) == ("running", [])


def test_when_only_a_lost_peer_is_known_the_run_waits_for_the_root_cause_before_it_places_workers():
    state, actions = play(*running(), failed(1, "a", Cause.PEER_LOST, at_s=20.0), gone(1, at_s=20.2))
    assert actions[-1] == StopWorkers(attempt=1)
    assert state.not_before_s == 25.2

    state, actions = play(node_lost("b", at_s=21.5), state=state)
    assert actions == [start(2, "ac")]
    assert state.incidents[0].cause is Cause.NODE_LOST


def test_a_root_cause_that_never_comes_delays_the_restart_only_by_the_grace():
    state, _ = play(*running(), failed(1, "a", Cause.PEER_LOST, at_s=20.0), gone(1, at_s=20.2))
    assert play(waited(25.0), state=state)[1] == []
    assert play(waited(25.2), state=state)[1] == [start(2, "ab")]


def test_hardware_faults_exclude_the_node_for_good():
    state, actions = play(*running(), failed(1, "a", Cause.HARDWARE), gone(1))
    assert actions[-1] == start(2, "bc")
    state, actions = play(stepped(2, 2), node_lost("c"), gone(2), waited(1000.0), state=state)
    assert actions == [StopWorkers(attempt=2)], "a is idle, but not trusted"
    assert state.reason == "waiting for nodes: needs 2 with 1 free slots, has 1; not trusted any more: a"


def test_the_first_restart_is_immediate_and_further_ones_back_off_until_a_checkpoint_shows_progress():
    state, _ = play(*running())
    waits = []
    for attempt in (1, 2, 3):
        state, _ = play(failed(attempt, "a", Cause.PEER_LOST, at_step=attempt, at_s=100.0), gone(attempt, at_s=100.0), state=state)
        waits.append(state.not_before_s - 100.0)
        state, _ = play(waited(200.0), state=state)
    assert waits == [5.0, 10.0, 20.0]

    state, _ = play(
        resumed(4, 0), stepped(4, 1), committed(4, 50), failed(4, "a", at_step=60, at_s=300.0), gone(4, at_s=300.0), state=state
    )
    assert state.restarts_in_row == 1
    assert state.attempt == 5


def test_the_restart_budget_ends_a_run_that_gets_nowhere():
    state, _ = play(*running())
    for attempt in (1, 2, 3, 4):
        state, _ = play(failed(attempt, "a", Cause.STORE, at_step=attempt), gone(attempt), waited(1000.0), state=state)
    assert state.label == "failed"
    assert state.reason == "recovery.max_restarts=3 restarts without a new checkpoint; last: store: it broke"


def test_the_same_crash_at_the_same_step_three_times_is_deterministic_and_ends_the_run():
    state, _ = play(*running())
    for attempt in (1, 2, 3):
        state, _ = play(failed(attempt, "a", Cause.CRASHED, at_step=41), gone(attempt), waited(1000.0), state=state)
    assert (state.label, state.reason) == ("failed", "crashed 3 times in a row at step 41: it broke")


def test_a_gpu_whose_kernels_are_wrong_is_left_for_another_node():
    state, actions = play(submitted(), nodes("abc"), failed(1, "a", Cause.KERNELS), gone(1))
    assert actions[-1].nodes == ("b", "c")
    state, actions = play(node_lost("b"), failed(2, "c", Cause.NODE_LOST), gone(2), state=state)
    assert state.label == "recovering"


def test_kernels_that_are_wrong_on_every_node_end_the_run_and_not_a_step_is_trained():
    state, _ = play(submitted(), nodes("abc"))
    for attempt, node in ((1, "a"), (2, "b"), (3, "c")):
        state, _ = play(failed(attempt, node, Cause.KERNELS), gone(attempt), waited(1000.0), state=state)
    assert (state.label, state.reason) == ("failed", "kernels 3 times in a row at step 0: it broke")


def test_crashes_at_different_steps_are_not_deterministic():
    state, _ = play(*running())
    for attempt, step in ((1, 41), (2, 42), (3, 41)):
        state, _ = play(failed(attempt, "a", Cause.CRASHED, at_step=step), gone(attempt), waited(1000.0), state=state)
    assert state.label == "recovering"


def test_a_configuration_error_ends_the_run_at_once():
    state, actions = play(submitted(), nodes("ab"), failed(1, "a", Cause.CONFIG), gone(1))
    assert (state.label, state.restarts) == ("failed", 0)
    assert state.reason == "config: it broke; no restart can help"
    assert actions[-1] == StopWorkers(attempt=1)


def test_events_of_an_older_attempt_change_nothing():
    state, _ = play(*running(), failed(1, "a"), gone(1))
    for late in (failed(1, "b"), gone(1), committed(1, 900), stepped(1, 901), ended(1, Outcome.FINISHED, 1000)):
        assert transition(state, late) == (state, ())


def test_a_stop_saves_first_and_then_ends():
    state, actions = play(*running(), stop())
    assert (state.label, actions[-1]) == ("stopping", SaveAndStop(attempt=1))
    state, actions = play(committed(1, 77), ended(1, Outcome.STOPPED, 77), state=state)
    assert (state.label, actions) == ("stopping", [StopWorkers(attempt=1)])
    state, _ = play(gone(1), state=state)
    assert (state.label, state.reason) == ("stopped", "stopped on request at step 77")


def test_an_impatient_stop_kills():
    state, actions = play(*running(), stop(), stop(now=True), gone(1))
    assert actions[-2:] == [SaveAndStop(attempt=1), StopWorkers(attempt=1)]
    assert state.label == "stopped"


def test_a_worker_that_dies_during_a_stop_ends_the_run_instead_of_restarting_it():
    state, _ = play(*running(), stop(), failed(1, "a"), gone(1))
    assert state.label == "stopped"
    assert state.reason == "stopped on request; its last checkpoint failed: it broke"


def test_a_stop_while_waiting_or_recovering_ends_the_run():
    assert play(submitted(), stop())[0].label == "stopped"
    assert play(*running(), failed(1, "a"), stop(), gone(1))[0].label == "stopped"


def test_a_stopped_run_resumes_with_a_new_budget_and_new_terms():
    state, _ = play(*running(), committed(1, 77), stop(), ended(1, Outcome.STOPPED, 77), gone(1))
    state, actions = play(
        ResumeRequested(at_s=1.0, terms=replace(TERMS, num_nodes=1, world_size=1, config_version=2)), nodes("z"), state=state
    )
    assert actions == [StartWorkers(attempt=2, nodes=("z",), workers_per_node=1, world_size=1, config_version=2)]
    assert (state.label, state.committed_step) == ("starting", 77)


def test_a_new_controller_repeats_what_the_old_one_may_have_left_undone():
    draining, _ = play(*running(), failed(1, "a"))
    assert play(ControllerStarted(at_s=9.0, epoch=2), state=draining)[1] == [StopWorkers(attempt=1)]
    saving, _ = play(*running(), stop())
    assert play(ControllerStarted(at_s=9.0, epoch=2), state=saving)[1] == [SaveAndStop(attempt=1)]
    steady, _ = play(*running())
    taken, actions = play(ControllerStarted(at_s=9.0, epoch=2), state=steady)
    assert (taken.epoch, taken.attempt, actions) == (2, 1, [])


def test_refused_checkpoints_are_remembered():
    state, _ = play(submitted(), nodes("ab"), resumed(1, 40, rejected=("step 60: digest mismatch in __0_0.distcp",)))
    assert state.rejected == ("step 60: digest mismatch in __0_0.distcp",)


def test_workers_that_were_told_to_stop_by_somebody_else_are_restarted():
    state, actions = play(*running(), ended(1, Outcome.STOPPED, 5), gone(1))
    assert actions[-1] == start(2, "ab")
    assert state.restarts == 1


def test_a_run_that_fell_back_has_not_committed_what_it_refused():
    state, _ = play(*running(), committed(1, 60), failed(1, "a"), gone(1), resumed(2, 20, rejected=("step 60: bad", "step 40: bad")))
    assert state.committed_step == 20
    state, _ = play(stepped(2, 21), committed(2, 40), state=state)
    assert (state.committed_step, state.restarts_in_row) == (40, 0)


def test_a_worker_killed_over_and_over_on_the_only_node_never_bars_it():
    one_node = replace(TERMS, num_nodes=1, world_size=1)
    state, _ = play(submitted(one_node), nodes("a"))
    for attempt in range(1, 6):
        state, actions = play(
            stepped(attempt, attempt), committed(attempt, 10 * attempt), failed(attempt, "a", at_step=attempt), gone(attempt), state=state
        )
        assert isinstance(actions[-1], StartWorkers), "weeks may lie between"


def test_a_resumed_run_is_judged_anew():
    state, _ = play(*running())
    for attempt in (1, 2, 3):
        state, _ = play(failed(attempt, "a", Cause.CRASHED, at_step=7), gone(attempt), waited(1000.0), state=state)
    assert state.label == "failed"

    state, _ = play(ResumeRequested(at_s=2000.0, terms=TERMS), nodes("ab", at_s=2001.0), state=state)
    state, actions = play(failed(4, "a", Cause.CRASHED, at_step=7, at_s=2002.0), gone(4, at_s=2002.0), state=state)
    assert isinstance(actions[-1], StartWorkers)
    state, _ = play(resumed(5, 0), stepped(5, 1, at_s=2010.0), state=state)
    assert [one.recovered_after_s for one in state.incidents] == [None, None, None, 8.0], "what ended the run was not recovered from"


def test_every_ending_has_a_label():
    assert {RunState(stage=Stage.ENDED, ending=ending).label for ending in Ending} == {"finished", "stopped", "failed"}
