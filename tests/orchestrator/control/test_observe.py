"""From levels (what is seen) to events (what it means)."""

from orchestrator import codec
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import Observation
from orchestrator.control.events import (
    BackoffElapsed,
    CheckpointCommitted,
    NodesChanged,
    StepReached,
    StopRequested,
    TrainingResumed,
    WorkerFailed,
    WorkersEnded,
    WorkersGone,
)
from orchestrator.control.observe import events_of
from orchestrator.control.placement import Node
from orchestrator.control.state import RunState
from orchestrator.messages import AgentReport, Ended, Failed, Outcome, Phase, Resumed, WorkerReport
from tests.orchestrator.control.stories import committed, failed, gone, nodes, play, rank, running, stepped, stop, submitted


def seen(
    *workers: WorkerReport, alive: str = "abc", attempt: int = 1, lost: str = "", is_gone: bool = False, at_s: float = 50.0
) -> Observation:
    reports = tuple(AgentReport(attempt=attempt, node="ab"[worker.rank], workers=(worker,)) for worker in workers)
    known = tuple(Node(node=name, slots=1) for name in alive)
    return Observation(at_s=at_s, nodes=known, attempt=attempt, reports=reports, lost_agents=tuple(lost), gone=is_gone)


def started() -> RunState:
    return play(submitted(), nodes("abc"))[0]


def steady() -> RunState:
    return play(*running())[0]


def test_nothing_new_means_no_event():
    assert list(events_of(steady(), seen(rank(0), rank(1)))) == []


def test_nodes_that_come_and_go():
    (event,) = events_of(steady(), seen(rank(0, silent_s=1.4), rank(1), alive="bcd"))
    assert event == NodesChanged(at_s=50.0, joined=(Node(node="d", slots=1),), lost=("a",), at_step=7, silent_s=1.4)


def test_of_a_run_whose_cluster_is_gone_the_last_checkpoint_is_known_at_least():
    state, _ = play(*running(), committed(1, 30))
    (event,) = events_of(state, seen(alive="xyz"))
    assert isinstance(event, NodesChanged)
    assert (event.lost, event.at_step) == (("a", "b", "c"), 30)


def test_resuming_and_the_first_step_after_it():
    loading = seen(rank(0, phase=Phase.LOADING, step=40, resumed=Resumed(step=40)), rank(1, phase=Phase.LOADING, step=40))
    assert list(events_of(started(), loading)) == [TrainingResumed(at_s=50.0, attempt=1, from_step=40)]
    stepping = seen(rank(0, step=41, resumed=Resumed(step=40)), rank(1, step=41))
    assert StepReached(at_s=50.0, attempt=1, step=41) in list(events_of(started(), stepping))


def test_a_commit_is_told_once():
    state, _ = play(*running())
    (event,) = events_of(state, seen(rank(0, committed_step=5, step=7), rank(1)))
    assert event == CheckpointCommitted(at_s=50.0, attempt=1, step=5)
    state, _ = play(event, state=state)
    assert list(events_of(state, seen(rank(0, committed_step=5, step=7), rank(1)))) == []


def test_a_killed_worker_comes_before_the_peers_that_it_took_along():
    peer = Failed(error_type="DistBackendError", text="Connection closed by peer [127.0.0.1]:4711")
    first, second = events_of(steady(), seen(rank(0, failed=peer), rank(1, exit_code=-9, silent_s=0.3)))
    assert isinstance(first, WorkerFailed)
    assert isinstance(second, WorkerFailed)
    assert (first.cause, first.rank, first.node, first.detail, first.silent_s) == (Cause.KILLED, 1, "b", "killed by SIGKILL", 0.3)
    assert (second.cause, second.rank) == (Cause.PEER_LOST, 0)


def test_a_worker_that_its_agent_killed_has_not_failed():
    draining, _ = play(*running(), failed(1, "a"))
    assert list(events_of(draining, seen(rank(0, exit_code=-9, killed_by_agent=True), rank(1, exit_code=-9, killed_by_agent=True)))) == []


def test_a_root_cause_is_still_heard_while_draining():
    draining, _ = play(*running(), failed(1, "a", Cause.PEER_LOST))
    (event,) = events_of(draining, seen(rank(1, exit_code=-11)))
    assert isinstance(event, WorkerFailed)
    assert event.detail == "killed by SIGSEGV"


def test_when_the_last_process_is_gone_the_drain_is_over():
    draining, _ = play(*running(), failed(1, "a"))
    assert list(events_of(draining, seen(is_gone=True))) == [WorkersGone(at_s=50.0, attempt=1)]


def test_an_agent_that_vanished_on_a_living_node_is_a_failure():
    (event,) = events_of(steady(), seen(rank(0), rank(1), lost="b"))
    assert isinstance(event, WorkerFailed)
    assert (event.cause, event.node, event.rank) == (Cause.AGENT_LOST, "b", 1)


def test_the_run_has_ended_when_every_worker_says_so():
    finished = Ended(outcome=Outcome.FINISHED, step=1000)
    assert list(events_of(steady(), seen(rank(0, ended=finished, exit_code=0), rank(1)))) == []
    everyone = seen(rank(0, ended=finished, exit_code=0), rank(1, ended=finished))
    assert list(events_of(steady(), everyone)) == [WorkersEnded(at_s=50.0, attempt=1, outcome=Outcome.FINISHED, step=1000)]


def test_the_end_tells_how_many_updates_were_skipped():
    done = Ended(outcome=Outcome.FINISHED, step=1000)
    (event,) = events_of(steady(), seen(rank(0, ended=done, num_skipped=3), rank(1, ended=done, num_skipped=3)))
    assert isinstance(event, WorkersEnded)
    assert event.num_skipped == 3


def test_an_end_that_was_journaled_without_skipped_updates_can_still_be_read():
    old = {"at_s": 1.0, "attempt": 1, "outcome": "finished", "step": 9}
    assert codec.from_plain(WorkersEnded, old) == WorkersEnded(at_s=1.0, attempt=1, outcome=Outcome.FINISHED, step=9)


def test_a_run_that_is_done_does_not_miss_a_node():
    finished = Ended(outcome=Outcome.FINISHED, step=1000)
    events = list(events_of(steady(), seen(rank(0, ended=finished), rank(1, ended=finished), alive="b")))
    state, _ = play(*events, gone(1), state=steady())
    assert (state.label, state.incidents) == ("finished", ())


def test_reports_of_another_attempt_mean_nothing():
    assert list(events_of(steady(), seen(rank(0, exit_code=-9), attempt=0))) == []


def test_a_backoff_ends_when_its_time_has_come():
    state, _ = play(*running(), failed(1, "a", Cause.PEER_LOST, at_s=20.0), gone(1, at_s=20.0))
    assert list(events_of(state, seen(attempt=1, at_s=24.0))) == []
    assert list(events_of(state, seen(attempt=1, at_s=25.0))) == [BackoffElapsed(at_s=25.0)]


def test_a_graceful_stop_has_a_deadline():
    state, _ = play(*running(), stop(at_s=100.0))
    assert list(events_of(state, seen(rank(0), rank(1), at_s=699.0))) == []
    assert list(events_of(state, seen(rank(0), rank(1), at_s=700.0))) == [StopRequested(at_s=700.0, now=True)]


def test_a_stall_is_reported_with_rank_and_node():
    (event,) = events_of(play(*running(), stepped(1, 3))[0], seen(rank(0), rank(1, silent_s=31.0)))
    assert isinstance(event, WorkerFailed)
    assert (event.cause, event.rank, event.node) == (Cause.FROZEN, 1, "b")
