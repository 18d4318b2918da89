"""A run's life as stories: what happened, and what becomes of the run."""

from dataclasses import replace

from orchestrator.control.causes import Cause
from orchestrator.control.events import ControllerStarted, FoundDead, NodesShort, NodesToLeave, ResumeRequested, SavingOverdue
from orchestrator.control.state import Ending, RunState, Stage
from orchestrator.control.transition import transition
from orchestrator.messages import Outcome
from tests.orchestrator.control.stories import (
    TERMS,
    committed,
    ended,
    failed,
    fault,
    gone,
    lost_checkpoint,
    next_on,
    placed,
    play,
    resumed,
    running,
    stepped,
    stop,
    submitted,
)


def resume(terms=TERMS):
    return ResumeRequested(at_s=1.0, terms=terms)


# --- the ordinary life ---------------------------------------------------------------------------------------------------


def test_a_run_from_submission_to_its_end():
    state = play(submitted())
    assert (state.label, state.reason) == ("queued", "")
    state = play(placed(1, "ab"), state=state)
    assert (state.label, [one.node for one in state.placement]) == ("starting", ["a", "b"])
    state = play(resumed(1, 0), stepped(1, 1), state=state)
    assert state.label == "running"
    state = play(committed(1, 1000), ended(1, Outcome.FINISHED, 1000), gone(1), state=state)
    assert (state.label, state.reason, state.restarts) == ("finished", "finished at step 1000", 0)


def test_a_run_that_waits_for_nodes_says_why():
    state = play(submitted(), NodesShort(at_s=1.0, attempt=0, text="waiting for nodes: needs 2 with 1 free slots, has 1"))
    assert (state.label, state.reason) == ("queued", "waiting for nodes: needs 2 with 1 free slots, has 1")
    assert play(placed(1, "ab"), state=state).reason == ""


def test_a_run_that_waits_again_after_a_failure_says_so_again():
    state = play(*running(), failed(1, fault(Cause.NODE_LOST, "a")), gone(1))
    assert state.reason == "recovering from node_lost: it broke"
    state = play(NodesShort(at_s=1.0, attempt=1, text="waiting for nodes"), state=state)
    assert state.reason == "waiting for nodes"


def test_a_killed_worker_restarts_every_worker_from_the_newest_checkpoint():
    state = play(*running(), committed(1, 500), failed(1, fault(node="b", rank=1), at_step=520, at_s=100.0))
    assert (state.label, state.stage) == ("recovering", Stage.DRAINING)
    state = play(gone(1, at_s=101.0), state=state)
    assert (state.label, state.reason, state.wait_s) == ("recovering", "recovering from killed: it broke", 0.0)
    assert next_on(state) == "ab", "the memory of a and b has the newest state"

    state = play(placed(2, "ab"), resumed(2, 500), stepped(2, 501, at_s=110.0), state=state)
    (incident,) = state.incidents
    assert state.label == "running"
    assert (incident.cause, incident.rank, incident.node, incident.machine, incident.detected_after_s) == (Cause.KILLED, 1, "b", "B", 0.2)
    assert (incident.recovered_after_s, incident.resumed_from_step, incident.steps_replayed) == (10.0, 500, 20)
    assert incident.strikes == {"B": 1}


def test_events_of_an_older_attempt_change_nothing():
    state = play(*running(), failed(1, fault()), gone(1), placed(2, "bc"))
    for late in (
        failed(1, fault(node="b")),
        gone(1),
        committed(1, 900),
        stepped(1, 901),
        ended(1, Outcome.FINISHED, 1000),
        placed(2, "ab"),
    ):
        assert transition(state, late) is state


def test_two_attempts_are_never_at_once():
    state = play(*running())
    for stage in (state, play(failed(1, fault()), state=state), play(stop(), state=state)):
        assert transition(stage, placed(2, "bc")) is stage


# --- checkpoints that come to nothing ------------------------------------------------------------------------------------


def test_lost_checkpoints_are_counted_until_one_is_committed():
    state = play(*running(), lost_checkpoint(1, 50, None), lost_checkpoint(1, 50, None), lost_checkpoint(1, 100, "b"))
    assert [(one.step, one.machine) for one in state.lost_checkpoints] == [(50, None), (100, "B")]
    assert play(committed(1, 150), state=state).lost_checkpoints == ()
    assert play(failed(1, fault()), gone(1), placed(2, "ac"), state=state).lost_checkpoints == (), "nor those of another attempt"


def test_a_node_that_alone_loses_checkpoint_after_checkpoint_is_left():
    state = play(*running(), *(lost_checkpoint(1, step, "b") for step in (50, 100, 150)))
    (incident,) = state.incidents
    assert (state.stage, incident.cause, incident.node, incident.rank) == (Stage.DRAINING, Cause.CUT_OFF, "b", 1)
    assert (incident.detail, incident.detected_after_s) == ("3 checkpoints in a row were lost there: no answer for 60 s", 0.0)
    assert next_on(play(gone(1), state=state)) == "ac"


def test_a_store_that_is_away_for_all_or_nowhere_to_go_lets_the_run_train_on():
    for losses in (
        [lost_checkpoint(1, step, None) for step in (50, 100, 150, 200)],
        [lost_checkpoint(1, step, "b", spares=0) for step in (50, 100, 150, 200)],
        [lost_checkpoint(1, step, "b" if step > 50 else None) for step in (50, 100, 150)],
        [lost_checkpoint(1, step, node) for step, node in ((50, "a"), (100, "b"), (150, "b"), (200, "a"))],
    ):
        state = play(*running(), *losses)
        assert (state.label, len(state.lost_checkpoints)) == ("running", 3)


def test_a_node_is_left_once_and_where_that_did_not_help_it_was_not_the_node():
    state = play(*running(), *(lost_checkpoint(1, step, "b") for step in (50, 100, 150)), gone(1), *running(2, "ac"))
    state = play(*(lost_checkpoint(2, step, "c") for step in (50, 100, 150)), state=state)
    assert (state.label, len(state.incidents)) == ("running", 1)


def test_a_run_on_one_node_does_not_leave_it_because_of_the_store():
    state = play(*running(on="a"), *(lost_checkpoint(1, step, "a") for step in (50, 100, 150)))
    assert (state.label, state.lost_checkpoints[-1].machine) == ("running", "A")


# --- a person's wishes ---------------------------------------------------------------------------------------------------


def test_a_stop_saves_first_and_then_ends():
    state = play(*running(), stop())
    assert (state.label, state.stage) == ("stopping", Stage.SAVING)
    state = play(committed(1, 77), ended(1, Outcome.STOPPED, 77), state=state)
    assert (state.label, state.stage) == ("stopping", Stage.DRAINING)
    state = play(gone(1), state=state)
    assert (state.label, state.reason) == ("stopped", "stopped on request at step 77")


def test_an_impatient_stop_kills():
    state = play(*running(), stop(), stop(now=True), gone(1))
    assert (state.label, state.reason) == ("stopped", "stopped on request, without a new checkpoint")


def test_asking_twice_for_the_same_is_asking_once():
    state = play(*running(), stop())
    assert transition(state, stop(at_s=9.0)) == state


def test_a_stop_that_takes_too_long_kills():
    state = play(*running(), stop(), SavingOverdue(at_s=1.0, attempt=1), gone(1))
    assert (state.label, state.reason) == ("stopped", "stopped on request; its last checkpoint failed: it took longer than 600 s")


def test_a_worker_that_dies_during_a_stop_ends_the_run_instead_of_restarting_it():
    state = play(*running(), stop(), failed(1, fault()), gone(1))
    assert (state.label, state.reason) == ("stopped", "stopped on request; its last checkpoint failed: it broke")


def test_a_worker_that_dies_once_its_stop_was_saved_takes_nothing_away():
    state = play(*running(), stop(), committed(1, 77), failed(1, fault(), at_step=77), gone(1))
    assert (state.label, state.reason) == ("stopped", "stopped on request at step 77; after that was saved: it broke")
    state = play(*running(), committed(1, 60), stop(), failed(1, fault(), at_step=77), gone(1))
    assert state.reason == "stopped on request; its last checkpoint failed: it broke", "that of step 60 is an earlier one"


def test_checkpoints_that_were_lost_do_not_end_the_last_one_early():
    state = play(*running(), *(lost_checkpoint(1, step, "b") for step in (50, 100)), stop(), lost_checkpoint(1, 150, "b"))
    assert state.stage is Stage.SAVING
    assert play(committed(1, 160), ended(1, Outcome.STOPPED, 160), gone(1), state=state).reason == "stopped on request at step 160"


def test_a_stop_while_waiting_starting_or_recovering_ends_the_run():
    assert play(submitted(), stop()).label == "stopped"
    assert play(submitted(), placed(1, "ab"), stop(), gone(1)).label == "stopped"
    assert play(*running(), failed(1, fault()), stop(), gone(1)).label == "stopped"


def test_a_run_whose_cluster_died_while_it_saved_goes_on_when_a_person_resumes_it():
    state = play(*running(), committed(1, 60), stop(), resume())
    assert (state.label, state.stage) == ("running", Stage.SAVING)
    state = play(failed(1, fault(Cause.NODE_LOST, "a"), fault(Cause.NODE_LOST, "b")), gone(1), state=state)
    assert (state.stage, state.ending) == (Stage.WAITING, None)


def test_a_stop_that_is_taken_back_while_workers_are_being_killed_restarts_them():
    state = play(*running(), stop(now=True), resume(), gone(1))
    assert (state.stage, state.ending, state.wait_s, state.incidents) == (Stage.WAITING, None, 0.0, ())


def test_a_stop_that_is_taken_back_while_workers_save_restarts_them_from_what_they_saved():
    state = play(*running(), stop(), resume(), committed(1, 77), ended(1, Outcome.STOPPED, 77), gone(1))
    assert (state.stage, state.committed_step, state.incidents) == (Stage.WAITING, 77, ())


def test_a_resume_of_a_run_that_goes_on_anyway_changes_nothing():
    for state in (play(submitted()), play(*running()), play(*running(), failed(1, fault()))):
        assert transition(state, resume()) == state
    finished = play(*running(), ended(1, Outcome.FINISHED, 1000))
    assert transition(finished, resume()) == finished


def test_a_stopped_run_resumes_with_a_new_budget_and_new_terms():
    terms = replace(TERMS, num_nodes=1, world_size=1, config_version=2)
    state = play(*running(), committed(1, 77), stop(), ended(1, Outcome.STOPPED, 77), gone(1), resume(terms))
    assert (state.label, state.committed_step, state.terms, state.stop_wanted) == ("queued", 77, terms, False)


def test_a_resumed_run_is_judged_anew():
    state = play(*running())
    for attempt in (1, 2, 3):
        state = play(placed(attempt, "ab"), failed(attempt, fault(Cause.CRASHED), at_step=7), gone(attempt, spares=0), state=state)
    assert state.label == "failed"
    state = play(resume(), placed(4, "ab"), failed(4, fault(Cause.CRASHED), at_step=7, at_s=2002.0), gone(4, spares=0), state=state)
    assert state.label == "recovering"
    state = play(placed(5, "ab"), resumed(5, 0), stepped(5, 1, at_s=2010.0), state=state)
    assert [one.recovered_after_s for one in state.incidents] == [None, None, None, 8.0], "what ended the run was not recovered from"


def test_a_run_that_nothing_is_left_of_can_be_ended_in_one_word():
    for state in (play(submitted()), play(*running()), play(*running(), stop())):
        assert play(FoundDead(at_s=9.0), state=state).label == "stopped"
    finished = play(*running(), ended(1, Outcome.FINISHED, 1000), FoundDead(at_s=9.0))
    assert (finished.label, finished.reason) == ("finished", "finished at step 1000")


# --- nodes that are to be left -------------------------------------------------------------------------------------------


def leave(attempt: int, node: str, within_s: float | None = None) -> NodesToLeave:
    return NodesToLeave(at_s=1.0, attempt=attempt, nodes=(node,), text="B cordoned: its fan rattles", within_s=within_s)


def test_a_run_saves_before_it_leaves_a_node_that_somebody_cordoned():
    state = play(*running(), leave(1, "b", within_s=120.0))
    assert (state.stage, state.save_within_s, state.label) == (Stage.SAVING, 120.0, "running")
    assert state.reason == "B cordoned: its fan rattles"
    state = play(committed(1, 77), ended(1, Outcome.STOPPED, 77), gone(1), state=state)
    (incident,) = state.incidents
    assert (incident.cause, incident.node, incident.strikes, incident.detected_after_s) == (Cause.LEAVING, "b", {}, 0.0)
    assert (state.restarts_in_row, state.wait_s, next_on(state)) == (0, 0.0, "ac")
    assert play(*running(2, "ac"), state=state).save_within_s is None


def test_what_leaving_a_node_costs_is_counted_from_the_newest_step_that_is_known():
    state = play(submitted(), placed(1, "ab"), resumed(1, 30), stepped(1, 31))
    assert play(leave(1, "b"), state=state).incidents[0].at_step == 30
    assert play(committed(1, 40), leave(1, "b"), state=state).incidents[0].at_step == 40
    assert play(submitted(), placed(1, "ab"), leave(1, "b")).incidents[0].at_step == 0


def test_a_node_is_left_without_saving_where_there_is_nothing_to_save_yet_or_no_time():
    starting = play(submitted(), placed(1, "ab"), leave(1, "b"))
    assert starting.stage is Stage.DRAINING
    late = play(*running(), leave(1, "b"), SavingOverdue(at_s=9.0, attempt=1), gone(1))
    assert (late.stage, late.restarts) == (Stage.WAITING, 1)


def test_what_breaks_while_a_node_is_being_left_counts_beside_it():
    state = play(*running(), leave(1, "b"), failed(1, fault(Cause.HARDWARE, "a")), gone(1))
    (incident,) = state.incidents
    assert (incident.cause, incident.cordons) == (Cause.LEAVING, ("A",))


def test_a_stop_while_a_node_is_being_left_ends_the_run():
    assert play(*running(), leave(1, "b"), stop(), ended(1, Outcome.STOPPED, 9), gone(1)).label == "stopped"


def test_workers_that_were_told_to_stop_by_somebody_else_go_on_elsewhere():
    state = play(*running(), ended(1, Outcome.STOPPED, 5, told="b"), gone(1))
    (incident,) = state.incidents
    assert (incident.cause, incident.node, state.restarts, next_on(state)) == (Cause.LEAVING, "b", 1, "ac")
    assert (incident.detail, incident.detected_after_s) == ("workers were told to stop by someone else (SIGTERM) and saved", 0.0)


# --- what the journal is for ---------------------------------------------------------------------------------------------


def test_a_new_controller_changes_the_epoch_and_nothing_else():
    state = play(*running())
    assert play(ControllerStarted(at_s=9.0, epoch=2), state=state) == replace(state, epoch=2)


def test_refused_checkpoints_are_those_of_the_present_attempt():
    """A person may trust one of an earlier attempt again; `braid checkpoints` has the history."""
    state = play(submitted(), placed(1, "ab"), resumed(1, 40, rejected=("step 60: digest mismatch in __0_0.distcp",)))
    assert state.rejected == ("step 60: digest mismatch in __0_0.distcp",)
    state = play(failed(1, fault()), gone(1), placed(2, "bc"), state=state)
    assert state.rejected == ()
    assert play(resumed(2, 20, rejected=("step 40: bad",)), state=state).rejected == ("step 40: bad",)


def test_a_run_that_fell_back_has_not_committed_what_it_refused():
    state = play(*running(), committed(1, 60), failed(1, fault()), gone(1), placed(2, "bc"), resumed(2, 20, rejected=("step 60: bad",)))
    assert (state.committed_step, state.restarts_in_row) == (20, 1)
    state = play(stepped(2, 21), committed(2, 40), state=state)
    assert (state.committed_step, state.restarts_in_row) == (40, 0)


def test_a_commit_that_is_told_late_takes_nothing_back():
    state = play(*running(), committed(1, 60))
    assert transition(state, committed(1, 40)) is state
    state = play(lost_checkpoint(1, 80, "b"), state=state)
    assert transition(state, committed(1, 60)) is state, "what was lost since is not forgotten"


def test_what_is_told_a_second_time_or_out_of_its_stage_changes_nothing():
    short = NodesShort(at_s=9.0, attempt=1, text="too few")
    training, draining = play(*running()), play(*running(), failed(1, fault()))
    for state in (training, play(stop(), state=training), draining):
        for event in (stepped(1, 5), resumed(1, 5), short, gone(1) if state is not draining else short):
            assert transition(state, event) is state
    for event in (
        stepped(1, 5),
        resumed(1, 5),
        ended(1, Outcome.STOPPED, 5),
        lost_checkpoint(1, 5, "b"),
        SavingOverdue(at_s=9.0, attempt=1),
    ):
        assert transition(draining, event) is draining
    early = play(submitted(), placed(1, "ab"), failed(1, fault()))
    assert transition(early, resumed(1, 5)) is early
    waiting = play(gone(1), short, state=draining)
    assert transition(waiting, replace(short, text="still too few")) is waiting


def test_what_was_never_submitted_has_no_life():
    for event in (FoundDead(at_s=1.0), stop(), placed(1, "ab"), resume()):
        assert transition(RunState(), event) == RunState()


def test_the_end_counts_as_a_commit_that_nobody_saw():
    assert play(*running(), ended(1, Outcome.FINISHED, 1000)).committed_step == 1000


def test_the_end_tells_how_many_updates_were_skipped():
    state = play(*running(), ended(1, Outcome.FINISHED, 1000, num_skipped=1))
    assert state.reason == "finished at step 1000; 1 update skipped in attempt 1"


def test_every_ending_has_a_label():
    assert {RunState(stage=Stage.ENDED, ending=ending).label for ending in Ending} == {"finished", "stopped", "failed"}
