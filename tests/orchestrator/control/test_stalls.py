"""Who is blamed when training stands still."""

import pytest

from orchestrator.config import RecoveryConfig
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import AgentSeen
from orchestrator.control.stalls import Stall, find_stalled
from orchestrator.messages import Ended, Outcome, Phase
from tests.orchestrator.control.stories import agent, rank

LIMITS = RecoveryConfig(heartbeat_timeout_s=5.0, stopped_timeout_s=1.5, progress_timeout_s=60.0, start_timeout_s=300.0)


def stalled(*agents: AgentSeen) -> Stall:
    stall = find_stalled(agents, LIMITS)
    assert stall is not None
    return stall


def test_of_a_standstill_the_silent_worker_is_the_culprit():
    waiting, frozen = agent("a", rank(0, last_progress_s=20.0, silent_s=0.4)), agent("b", rank(1, last_progress_s=20.0, silent_s=6.0))
    stall = stalled(waiting, frozen)
    assert (stall.cause, stall.agent, stall.worker.rank) == (Cause.FROZEN, frozen, 1)
    assert stall.detail == "no sign of life for 6.0 s in phase training after step 7"


def test_of_several_silent_ones_the_longest_silent_is():
    agents = agent("a", rank(0, silent_s=6.0), rank(1, silent_s=7.0)), agent("b", rank(2, silent_s=9.0), rank(3))
    assert stalled(*agents).worker.rank == 2


def test_a_worker_that_the_kernel_says_is_stopped_is_frozen_long_before_a_silent_one():
    busy = rank(1, silent_s=4.0)
    for phase in (Phase.STARTING, Phase.TRAINING):
        stopped = rank(0, silent_s=1.0, is_stopped=True, phase=phase)
        stall = stalled(agent("a", stopped, busy, age_s=0.6))
        assert (stall.cause, stall.worker.rank) == (Cause.FROZEN, 0)
        assert stall.detail == f"no sign of life for 1.6 s in phase {phase.value} after step 7, stopped (SIGSTOP)"
        assert find_stalled([agent("a", stopped, busy, age_s=0.4)], LIMITS) is None


def test_a_report_that_is_not_renewed_ages():
    fresh, old = agent("a", rank(0)), agent("b", rank(1, silent_s=0.5), age_s=4.6)
    assert stalled(fresh, old).detail == "no sign of life for 5.1 s in phase training after step 7"
    assert find_stalled([fresh, agent("b", rank(1, silent_s=0.5), age_s=4.4)], LIMITS) is None


def test_when_all_still_beat_the_one_furthest_behind_is_the_culprit():
    ahead, behind = agent("a", rank(0, step=8, last_progress_s=61.0)), agent("b", rank(1, step=7, last_progress_s=61.0))
    stall = stalled(ahead, behind)
    assert (stall.cause, stall.agent, stall.worker.rank) == (Cause.HUNG, behind, 1)
    assert stall.detail == "no progress for 61.0 s in phase training after step 7"


def test_within_a_node_too_the_one_furthest_behind_is_the_culprit():
    agents = agent("a", rank(0, step=8, last_progress_s=61.0)), agent("b", rank(1, step=8), rank(2, step=7, last_progress_s=61.0))
    assert (stalled(*agents).agent, stalled(*agents).worker.rank) == (agents[1], 2)


def test_of_nodes_that_are_equally_far_behind_the_one_without_progress_for_longest_is_the_culprit():
    first = agent("a", rank(0, step=8), rank(1, step=7, last_progress_s=61.0))
    longer = agent("b", rank(2, step=8), rank(3, step=7, last_progress_s=62.0))
    assert stalled(first, longer).worker.rank == 3


def test_of_ranks_at_the_same_step_the_one_that_has_not_begun_the_next_is_the_culprit():
    waiting, reading = agent("a", rank(0, begun=8, last_progress_s=61.0)), agent("b", rank(1, begun=7, last_progress_s=62.0))
    assert stalled(waiting, reading).agent == reading


def test_where_nobody_is_behind_nobody_is_the_culprit():
    stall = stalled(agent("a", rank(0, last_progress_s=61.0)), agent("b", rank(1, last_progress_s=60.5)))
    assert (stall.cause, stall.agent) == (Cause.HUNG, None)
    assert stall.detail.endswith("; every rank stands there")


def test_a_node_whose_ranks_are_apart_leaves_a_culprit():
    apart = agent("b", rank(1, step=7, last_progress_s=62.0), rank(2, step=8))
    assert stalled(agent("a", rank(0, step=7, last_progress_s=61.0)), apart).agent == apart


def test_of_a_single_node_there_is_no_doubt():
    only = agent("a", rank(0, last_progress_s=61.0), rank(1, last_progress_s=61.0))
    assert stalled(only).agent == only


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.LOADING, Phase.WARMING])
def test_loading_and_compiling_may_take_longer(phase: Phase):
    assert find_stalled([agent("a", rank(0, phase=phase, last_progress_s=200.0))], LIMITS) is None
    assert find_stalled([agent("a", rank(0, phase=phase, last_progress_s=301.0))], LIMITS) is not None


def test_a_limit_may_be_used_up():
    assert find_stalled([agent("a", rank(0, last_progress_s=60.0, silent_s=5.0))], LIMITS) is None
    assert find_stalled([agent("a", rank(0, last_progress_s=59.0, silent_s=4.0), age_s=1.0)], LIMITS) is None


def test_a_process_that_still_imports_may_be_silent_for_long():
    assert find_stalled([agent("a", rank(0, phase=Phase.STARTING, silent_s=200.0))], LIMITS) is None
    assert find_stalled([agent("a", rank(0, phase=Phase.STARTING, silent_s=301.0))], LIMITS) is not None
    importing, frozen = rank(0, phase=Phase.STARTING, silent_s=200.0), rank(1, silent_s=6.0)
    assert stalled(agent("a", importing, frozen)).worker.rank == 1


def test_the_last_checkpoint_has_the_time_that_a_stop_has():
    assert find_stalled([agent("a", rank(0, phase=Phase.SAVING, last_progress_s=599.0))], LIMITS) is None
    assert find_stalled([agent("a", rank(0, phase=Phase.SAVING, last_progress_s=601.0))], LIMITS) is not None


def test_workers_that_are_done_can_not_stall():
    done = rank(0, last_progress_s=1e6, silent_s=1e6, ended=Ended(outcome=Outcome.FINISHED, step=9))
    assert find_stalled([agent("a", done), agent("b", rank(1, exit_code=1, silent_s=1e6)), agent("c")], LIMITS) is None
