"""From levels (what is seen) to events (what it means)."""

from dataclasses import replace

from orchestrator.control.causes import Cause
from orchestrator.control.cluster import AgentSeen
from orchestrator.control.events import (
    AttemptStarted,
    CheckpointCommitted,
    CheckpointLost,
    FaultsSeen,
    NodesShort,
    NodesToLeave,
    SavingOverdue,
    StepReached,
    TrainingResumed,
    WorkersEnded,
    WorkersGone,
)
from orchestrator.control.observe import events_of, shortage
from orchestrator.control.placement import Placed
from orchestrator.control.state import RunState, Stage
from orchestrator.messages import CheckpointLost as LostWord
from orchestrator.messages import Ended, Failed, Outcome, Phase, Resumed
from orchestrator.records.nodes import Standing
from tests.orchestrator.control.stories import (
    TERMS,
    agent,
    committed,
    failed,
    fault,
    gone,
    placed,
    play,
    rank,
    resumed,
    running,
    see,
    seen,
    stepped,
    stop,
    submitted,
)

PEER = Failed(error_type="DistBackendError", text="Connection closed by peer [127.0.0.1]:4711")
CORDONED = Standing(cordoned="its fan rattles", within_s=120.0)


def started() -> RunState:
    return play(submitted(), placed(1, "ab"))


def steady() -> RunState:
    return play(*running())


def both(*, a=None, b=None):
    """The agents of both nodes, each with its one worker."""
    return agent("a", a or rank(0)), agent("b", b or rank(1))


def faults_of(state: RunState, *agents: AgentSeen, alive: str = "abc") -> FaultsSeen:
    (event,) = events_of(state, seen(*agents, alive=alive), 0.0)
    assert isinstance(event, FaultsSeen)
    return event


def test_nothing_new_means_no_event():
    assert list(events_of(steady(), seen(*both()), 0.0)) == []


def test_of_a_run_that_was_never_submitted_or_has_ended_nothing_is_said():
    assert list(events_of(RunState(), seen(), 0.0)) == []
    assert list(events_of(play(submitted(), stop()), seen(), 0.0)) == []
    over = play(*running(), stop(now=True), gone(1))
    assert list(events_of(over, seen(alive=""), 0.0)) == [], "its nodes may be gone too"


# --- attempts begin ------------------------------------------------------------------------------------------------------


def test_an_attempt_starts_once_there_are_nodes_enough():
    (event,) = events_of(play(submitted()), seen(alive="ab"), 0.0)
    assert event == AttemptStarted(at_s=50.0, attempt=1, placement=(Placed(node="a", machine="A"), Placed(node="b", machine="B")))


def test_too_few_nodes_are_told_once():
    (event,) = events_of(play(submitted()), seen(alive="a"), 0.0)
    assert event == NodesShort(at_s=50.0, attempt=0, text="waiting for nodes: needs 2 with 1 free slots, has 1")
    assert list(events_of(play(event, state=play(submitted())), seen(alive="a"), 0.0)) == []


def test_a_shortage_names_the_machines_that_nobody_may_use():
    text = shortage(play(submitted()), seen(alive="abc", standings={"B": CORDONED, "A": CORDONED, "Z": CORDONED}))
    assert text == (
        "waiting for nodes: needs 2 with 1 free slots, has 1; cordoned: A, B (`braid nodes` says why, `braid nodes clear` gives back)"
    )


def test_a_backoff_is_over_when_this_controller_has_watched_for_as_long():
    state = play(*running(), failed(1, fault(Cause.PEER_LOST, "a"), at_s=1e9), gone(1, at_s=1e9))
    assert list(events_of(state, seen(at_s=3.0), 4.9)) == [], "whatever the clocks of this machine and the one before say"
    (event,) = events_of(state, seen(at_s=3.0), 5.0)
    assert isinstance(event, AttemptStarted)


# --- progress ------------------------------------------------------------------------------------------------------------


def test_resuming_and_the_first_step_after_it():
    loaded = Resumed(step=40, joining_s=2.0, loading_s=0.5)
    loading = both(a=rank(0, phase=Phase.LOADING, step=40, resumed=loaded), b=rank(1, phase=Phase.LOADING, step=40))
    told = TrainingResumed(at_s=50.0, attempt=1, from_step=40, joining_s=2.0, loading_s=0.5)
    assert list(events_of(started(), seen(*loading), 0.0)) == [told]
    stepping = both(a=rank(0, step=41, resumed=Resumed(step=40)), b=rank(1, step=41))
    assert StepReached(at_s=50.0, attempt=1, step=41) in list(events_of(started(), seen(*stepping), 0.0))
    assert list(events_of(play(resumed(1, 40), state=started()), seen(*loading), 0.0)) == []


def test_a_commit_is_told_once():
    look = seen(*both(a=rank(0, committed_step=5)))
    (event,) = events_of(steady(), look, 0.0)
    assert event == CheckpointCommitted(at_s=50.0, attempt=1, step=5)
    assert list(events_of(steady(), seen(*reversed(both(a=rank(0, committed_step=5)))), 0.0)) == [event]
    assert list(events_of(steady(), seen(*reversed(both(b=rank(1, committed_step=5)))), 0.0)) == [], "rank 0 speaks for the attempt"
    assert list(events_of(play(event, state=steady()), look, 0.0)) == []


def test_a_lost_checkpoint_is_told_once_with_the_one_node_that_lost_it():
    look = seen(*both(a=rank(0, lost_checkpoint=LostWord(step=5, ranks=(1,), text="no answer"))))
    (event,) = events_of(steady(), look, 0.0)
    assert event == CheckpointLost(at_s=50.0, attempt=1, step=5, node="b", ranks=(1,), text="no answer", spares=1)
    assert list(events_of(play(event, state=steady()), look, 0.0)) == []


def test_a_checkpoint_that_several_nodes_lost_or_nobody_knows_who_is_no_nodes_doing():
    (event,) = events_of(steady(), seen(*both(a=rank(0, lost_checkpoint=LostWord(step=5, ranks=(0, 1), text="no answer")))), 0.0)
    assert isinstance(event, CheckpointLost)
    assert event.node is None
    (event,) = events_of(steady(), seen(*both(a=rank(0, lost_checkpoint=LostWord(step=5, ranks=(), text="no answer")))), 0.0)
    assert isinstance(event, CheckpointLost)
    assert event.node is None


def test_reports_of_another_attempt_mean_nothing():
    look = seen(agent("a", rank(0, exit_code=-9), attempt=2), agent("b", rank(1, committed_step=9), attempt=0))
    assert list(events_of(steady(), look, 0.0)) == []


# --- the end -------------------------------------------------------------------------------------------------------------


def test_the_run_has_ended_when_every_worker_says_so():
    finished = Ended(outcome=Outcome.FINISHED, step=1000)
    assert list(events_of(steady(), seen(*both(a=rank(0, ended=finished, exit_code=0))), 0.0)) == []
    everyone = both(a=rank(0, ended=finished, exit_code=0, num_skipped=2), b=rank(1, ended=finished, num_skipped=3))
    (event,) = events_of(steady(), seen(*everyone), 0.0)
    assert event == WorkersEnded(at_s=50.0, attempt=1, outcome=Outcome.FINISHED, step=1000, num_skipped=3)


def test_workers_that_ended_differently_have_not_ended_together():
    mixed = both(a=rank(0, ended=Ended(outcome=Outcome.FINISHED, step=9)), b=rank(1, ended=Ended(outcome=Outcome.STOPPED, step=9)))
    assert list(events_of(steady(), seen(*mixed), 0.0)) == []


def test_workers_that_were_told_to_leave_say_where():
    stopped = Ended(outcome=Outcome.STOPPED, step=9)
    idle = agent("c")  # one that has no workers was told nothing
    (event,) = events_of(steady(), seen(*both(a=rank(0, ended=stopped), b=rank(1, ended=stopped, told_to_leave=True)), idle), 0.0)
    assert isinstance(event, WorkersEnded)
    assert event.told == ("b",)
    (event,) = events_of(steady(), seen(*both(a=rank(0, ended=stopped), b=rank(1, ended=replace(stopped, step=8)))), 0.0)
    assert isinstance(event, WorkersEnded)
    assert event.step == 9


def test_a_node_whose_workers_got_sigterm_is_left_within_the_grace():
    terms = replace(TERMS, preemption_grace_s=45.0)
    state = play(submitted(terms), placed(1, "ab"), resumed(1, 0), stepped(1, 1))
    told = seen(*both(b=rank(1, told_to_leave=True)))
    assert list(events_of(state, told, 0.0)) == [
        NodesToLeave(at_s=50.0, attempt=1, nodes=("b",), text="B told to leave (SIGTERM)", within_s=45.0)
    ]
    leaving = see(state, told)
    assert (leaving.stage, leaving.incidents[0].cause, see(leaving, told)) == (Stage.SAVING, Cause.LEAVING, leaving)
    assert see(leaving, told, in_stage_s=45.0).stage is Stage.DRAINING


def test_a_run_that_is_done_does_not_miss_a_node():
    finished = Ended(outcome=Outcome.FINISHED, step=1000)
    state = see(steady(), seen(*both(a=rank(0, ended=finished), b=rank(1, ended=finished)), alive="b"))
    assert (play(gone(1), state=state).label, state.incidents) == ("finished", ())


def test_a_graceful_stop_has_a_deadline():
    state = play(*running(), stop(at_s=1e9))
    assert list(events_of(state, seen(*both()), 599.0)) == []
    assert list(events_of(state, seen(*both()), 600.0)) == [SavingOverdue(at_s=50.0, attempt=1)]


def test_the_drain_is_over_when_no_process_is_left_or_none_that_could_be_reached():
    draining = play(*running(), failed(1, fault()))
    dead = rank(1, exit_code=-9, killed_by_agent=True)
    empty, busy = agent("a"), agent("b", dead, is_empty=False)
    assert list(events_of(draining, seen(empty, busy), 0.0)) == []
    over = [WorkersGone(at_s=50.0, attempt=1, spares=1)]
    assert list(events_of(draining, seen(empty, agent("b", dead, is_empty=True)), 0.0)) == over
    assert list(events_of(draining, seen(empty, agent("b", dead, is_empty=False, is_given_up=True)), 0.0)) == over
    assert list(events_of(draining, seen(empty, AgentSeen(node="b", is_lost=True)), 0.0)) == over
    assert list(events_of(draining, seen(empty), 0.0)) == over, "an agent that nobody knows of has no workers"
    assert list(events_of(draining, seen(empty, agent("b", attempt=0)), 0.0)) == [], "it was not told to kill them yet"
    assert list(events_of(draining, seen(empty, AgentSeen(node="b")), 0.0)) == [], "it has not said a word yet"
    quiet = agent("b", dead, is_empty=False, age_s=99.0)
    assert list(events_of(draining, seen(empty, quiet), 0.0)) == [], "the cluster gives it up, in its time"


# --- faults --------------------------------------------------------------------------------------------------------------


def test_a_node_of_the_attempt_that_leaves_is_lost():
    event = faults_of(steady(), agent("a", rank(0, silent_s=1.0), age_s=0.4), agent("b", rank(1, silent_s=2.0)), alive="bc")
    assert event.faults == (fault(Cause.NODE_LOST, "a", detail="the node left the cluster"),)
    assert (event.at_step, event.silent_s) == (7, 1.4)


def test_nodes_that_the_attempt_is_not_on_come_and_go():
    assert list(events_of(steady(), seen(*both(), alive="ab"), 0.0)) == []
    assert list(events_of(steady(), seen(*both(), alive="abxyz"), 0.0)) == []


def test_of_a_run_whose_cluster_is_gone_the_last_checkpoint_is_known_at_least():
    event = faults_of(play(*running(), resumed(1, 30)), alive="xyz")
    assert ([one.node for one in event.faults], event.silent_s) == (["a", "b"], 0.0)
    state = play(submitted(), placed(1, "ab"), resumed(1, 30), committed(1, 40))
    assert faults_of(state, alive="xyz").at_step == 30


def test_everything_that_is_wrong_is_told_at_once():
    ecc = Failed(error_type="AcceleratorError", text="CUDA error: uncorrectable ECC error encountered")
    event = faults_of(steady(), *both(a=rank(0, failed=PEER), b=rank(1, failed=ecc, exit_code=1)))
    assert [(one.cause, one.node, one.rank) for one in event.faults] == [(Cause.PEER_LOST, "a", 0), (Cause.HARDWARE, "b", 1)]
    assert play(event, state=steady()).incidents[0].cause is Cause.HARDWARE


def test_what_many_ranks_say_alike_is_one_fault():
    state = play(*running(on="abcd"))
    agents = [agent(name, rank(number, failed=PEER, exit_code=1)) for number, name in enumerate("abcd")]
    (one,) = faults_of(state, *reversed(agents), alive="abcd").faults
    assert (one.cause, one.rank, one.node, one.num_ranks, one.num_nodes) == (Cause.PEER_LOST, 0, "a", 4, 4)
    killed = [agent(name, rank(number, exit_code=-9)) for number, name in enumerate("abcd")]
    assert [one.node for one in faults_of(state, *killed, alive="abcd").faults] == list("abcd"), "each node kills for reasons of its own"


def test_a_worker_that_its_agent_killed_has_not_failed():
    draining = play(*running(), failed(1, fault()))
    by_agent = {"exit_code": -9, "killed_by_agent": True}
    look = seen(agent("a", rank(0, **by_agent), is_empty=False), agent("b", rank(1, **by_agent), is_empty=False))
    assert list(events_of(draining, look, 0.0)) == []


def test_a_root_cause_is_still_heard_while_draining():
    draining = play(*running(), failed(1, fault(Cause.PEER_LOST)))
    event = faults_of(draining, agent("b", rank(1, exit_code=-11), is_empty=False), agent("a", is_empty=False))
    assert [one.detail for one in event.faults] == ["killed by SIGSEGV"]


def test_an_agent_that_vanished_on_a_living_node_is_a_failure():
    event = faults_of(steady(), agent("a", rank(0)), agent("b", rank(1), is_lost=True))
    assert event.faults == (fault(Cause.AGENT_LOST, "b", rank=1, detail="the node's agent ended"),)


def test_an_agent_that_answers_nothing_is_its_nodes_fault_whether_it_has_workers_or_not():
    limit_s = submitted().terms.recovery.heartbeat_timeout_s
    starts = agent("a", rank(0, step=0, resumed=None))
    (found,) = faults_of(started(), starts, agent("b", attempt=0, age_s=limit_s + 1)).faults
    assert (found.cause, found.node) == (Cause.FROZEN, "b")
    assert not list(events_of(started(), seen(starts, agent("b", attempt=0, age_s=limit_s - 1)), 0.0))


def test_of_nodes_that_start_no_workers_the_first_is_left_after_a_while():
    """All wait for the first one, which says where workers meet."""
    limit_s = submitted().terms.recovery.start_timeout_s
    idle = seen(agent("a", attempt=1), agent("b", attempt=0))
    assert not list(events_of(started(), idle, limit_s - 1))
    (event,) = events_of(started(), idle, limit_s + 1)
    assert isinstance(event, FaultsSeen)
    assert [(fault.cause, fault.node) for fault in event.faults] == [(Cause.AGENT_LOST, "a")]
    (event,) = events_of(started(), seen(agent("a", rank(0, step=0, resumed=None)), agent("b", attempt=0)), limit_s + 1)
    assert isinstance(event, FaultsSeen)
    assert [fault.node for fault in event.faults] == ["b"], "the first one has its workers"


def test_a_node_whose_agent_says_nothing_while_workers_are_to_be_gone_explains_what_others_say():
    limit_s = submitted().terms.recovery.give_up_timeout_s
    draining = play(failed(1, fault(Cause.PEER_LOST, "a")), state=steady())
    silent = see(draining, seen(agent("a"), agent("b", age_s=limit_s + 1, is_given_up=True)))
    busy = see(draining, seen(agent("a"), agent("b", age_s=1.0, is_given_up=True)))
    assert (silent.incidents[-1].cause, silent.incidents[-1].node) == (Cause.FROZEN, "b")
    assert busy.incidents[-1].cause is Cause.PEER_LOST, "it answers, and only needs longer"


def test_a_process_that_survives_sigkill_is_the_nodes_fault():
    draining = play(*running(), failed(1, fault(Cause.FROZEN, "b", rank=1)))
    event = faults_of(draining, agent("a"), agent("b", is_empty=False, stuck=(41, 42)))
    (one,) = event.faults
    assert (one.cause, one.node) == (Cause.HARDWARE, "b")
    assert one.detail.startswith("processes 41, 42 survive SIGKILL")
    assert play(event, state=draining).incidents[0].cordons == ("B",)


def test_a_stall_is_reported_with_rank_and_node_but_not_beside_a_failure():
    event = faults_of(steady(), *both(b=rank(1, silent_s=31.0)))
    assert [(one.cause, one.rank, one.node) for one in event.faults] == [(Cause.FROZEN, 1, "b")]
    event = faults_of(steady(), *both(a=rank(0, exit_code=-9), b=rank(1, silent_s=31.0)))
    assert [one.cause for one in event.faults] == [Cause.KILLED]


def test_a_hang_that_no_rank_is_behind_in_is_nobodys_fault():
    event = faults_of(steady(), *both(a=rank(0, last_progress_s=601.0), b=rank(1, last_progress_s=605.0)))
    (one,) = event.faults
    assert (one.cause, one.node, one.machine, one.rank) == (Cause.HUNG, None, None, None)
    assert play(event, state=steady()).incidents[0].strikes == {}


def test_a_lost_node_is_looked_for_after_the_attempt_too():
    waiting = play(*running(), failed(1, fault(Cause.PEER_LOST, "a")), gone(1))
    state = see(waiting, seen(agent("a"), alive="acd"))
    assert (state.incidents[0].cause, state.incidents[0].node) == (Cause.NODE_LOST, "b")


# --- machines that nobody may use ----------------------------------------------------------------------------------------


def test_a_cordon_under_a_running_attempt_asks_it_to_leave():
    (event,) = events_of(steady(), seen(*both(), standings={"B": CORDONED}), 0.0)
    assert event == NodesToLeave(at_s=50.0, attempt=1, nodes=("b",), text="B cordoned: its fan rattles", within_s=120.0)
    leaving = play(event, state=steady())
    assert list(events_of(leaving, seen(*both(), standings={"B": CORDONED}), 119.0)) == []
    assert list(events_of(leaving, seen(*both(), standings={"B": CORDONED}), 120.0)) == [SavingOverdue(at_s=50.0, attempt=1)]


def test_a_cordon_elsewhere_disturbs_nobody():
    assert list(events_of(steady(), seen(*both(), standings={"C": CORDONED}), 0.0)) == []
