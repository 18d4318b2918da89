"""What shows of a failure or of a cordon, on several nodes at once."""

from dataclasses import replace

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import FaultsSeen, NodesToLeave, SavingOverdue, WorkersEnded
from orchestrator.control.observe import events_of
from orchestrator.control.state import Stage
from orchestrator.messages import CheckpointLost, Ended, Failed, Outcome
from orchestrator.records.nodes import Standing
from orchestrator.telemetry import GpuLevels, HostLevels, NodeLevels
from tests.orchestrator.control.stories import TERMS, agent, failed, fault, placed, play, rank, resumed, see, seen, stepped, stop, submitted
from tests.orchestrator.control.test_observe import CORDONED, both, faults_of, started, steady


@pytest.mark.parametrize(
    ("exit_code", "error", "cause"),
    [
        (1, ("AcceleratorError", "uncorrectable ECC error"), Cause.HARDWARE),
        (1, ("OSError", "No space left on device"), Cause.DISK_FULL),
        (1, ("KernelsWrong", "0.4 off"), Cause.KERNELS),
        (-9, None, Cause.KILLED),
        (-15, None, Cause.LEAVING),
    ],
)
def test_what_each_node_has_for_itself_is_told_for_each(exit_code: int, error: tuple[str, str] | None, cause: Cause):
    word = Failed(error_type=error[0], text=error[1]) if error else None
    agents = both(a=rank(0, exit_code=exit_code, failed=word), b=rank(1, exit_code=exit_code, failed=word))
    assert [(one.cause, one.node) for one in faults_of(steady(), *agents).faults] == [(cause, "a"), (cause, "b")]


def test_a_worker_that_falls_silent_is_held_against_its_machine():
    event = faults_of(steady(), *both(b=rank(1, silent_s=31.0)))
    assert play(event, state=steady()).incidents[0].strikes == {"B": 2}


def test_an_attempt_that_is_being_ended_makes_no_more_progress():
    draining = play(failed(1, fault(Cause.PEER_LOST)), state=steady())
    word = CheckpointLost(step=9, ranks=(1,), text="no answer")
    look = seen(agent("a", rank(0, committed_step=5, lost_checkpoint=word), is_empty=False), agent("b", rank(1), is_empty=False))
    assert list(events_of(draining, look, 0.0)) == []


def test_an_agent_without_workers_is_not_blamed_where_another_node_failed():
    limit_s = submitted().terms.recovery.start_timeout_s
    look = seen(agent("a", rank(0, exit_code=-9, step=0, resumed=None)), agent("b", attempt=0))
    (event,) = events_of(started(), look, limit_s + 1)
    assert isinstance(event, FaultsSeen)
    assert [one.cause for one in event.faults] == [Cause.KILLED]


def test_a_limit_may_be_used_up():
    recovery = submitted().terms.recovery
    idle = agent("a"), agent("b", attempt=0, age_s=recovery.heartbeat_timeout_s)
    assert list(events_of(started(), seen(*idle), recovery.start_timeout_s)) == []


def test_a_run_of_one_worker_has_ended_when_it_says_so():
    alone = play(submitted(replace(TERMS, num_nodes=1, world_size=1)), placed(1, "a"), resumed(1, 0), stepped(1, 1))
    (event,) = events_of(alone, seen(agent("a", rank(0, ended=Ended(outcome=Outcome.FINISHED, step=9)))), 0.0)
    assert isinstance(event, WorkersEnded)


def test_what_is_lost_before_a_worker_was_there_is_lost_at_step_0():
    assert faults_of(started(), alive="xyz").at_step == 0


def test_of_several_nodes_that_are_to_be_left_the_one_in_the_greatest_hurry_says_by_when():
    standings = {"A": Standing(cordoned="a new kernel"), "B": CORDONED}
    (event,) = events_of(steady(), seen(*both(), standings=standings), 0.0)
    assert event == NodesToLeave(at_s=50.0, attempt=1, nodes=("a", "b"), text="A, B cordoned: a new kernel", within_s=120.0)
    (event,) = events_of(steady(), seen(*both(), standings={"A": Standing(cordoned="now", within_s=9.0), "B": CORDONED}), 0.0)
    assert isinstance(event, NodesToLeave)
    assert event.within_s == 9.0


def test_a_cordon_while_the_run_saves_leaves_it_no_more_time_than_the_machine_has():
    """For a person who stopped the run, or to leave another machine. It counts from the cordon, and is said once."""
    look = seen(*both(), standings={"B": CORDONED})
    for saving in (play(stop(), state=steady()), see(steady(), seen(*both(), standings={"A": Standing(cordoned="hot")}))):
        assert saving.stage is Stage.SAVING
        hurried = see(saving, look, in_stage_s=30.0)
        assert hurried.save_within_s == 150.0
        assert list(events_of(hurried, look, 149.0)) == []
        assert list(events_of(hurried, look, 150.0)) == [SavingOverdue(at_s=50.0, attempt=1)]
    assert see(saving, look, in_stage_s=500.0).save_within_s is None, "it has less time than that anyway"


def test_a_cordon_under_an_attempt_that_starts_ends_it_and_under_one_that_is_being_ended_says_nothing():
    look = seen(agent("a"), agent("b"), standings={"B": CORDONED})
    (event,) = events_of(started(), look, 0.0)
    assert isinstance(event, NodesToLeave)
    draining = see(started(), look)
    assert (draining.stage, [one.cause for one in draining.incidents]) == (Stage.DRAINING, [Cause.LEAVING])
    assert list(events_of(draining, seen(agent("a", rank(0)), agent("b"), standings=look.standings), 0.0)) == []


def test_a_rank_that_no_node_of_the_attempt_has_is_held_against_no_machine():
    (found,) = faults_of(steady(), *both(b=rank(2, exit_code=-9))).faults
    assert (found.rank, found.node, found.machine) == (2, "b", None)


def test_a_gpu_in_trouble_explains_the_failure_of_a_worker_on_its_node_and_ends_nothing_by_itself():
    host = HostLevels(memory_available_bytes=1, memory_total_bytes=2, disk_free_bytes=1, disk_total_bytes=2)
    levels = NodeLevels(host=host, gpus=(GpuLevels(uuid="GPU-7", trouble="Xid 79, the GPU has fallen off the bus"),))
    word = Failed(error_type="RuntimeError", text="CUDA error: an illegal memory access was encountered")
    trains, fails = (agent("b", rank(1, **known), levels=levels) for known in ({}, {"exit_code": 1, "failed": word}))
    assert list(events_of(steady(), seen(agent("a", rank(0)), trains), 0.0)) == []
    (incident,) = see(steady(), seen(agent("a", rank(0)), fails)).incidents
    assert (incident.cause, incident.cordons) == (Cause.HARDWARE, ("B",))
    assert incident.detail == "GPU GPU-7: Xid 79, the GPU has fallen off the bus; its workers failed"
