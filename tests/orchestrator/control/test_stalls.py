"""Who is blamed when training stands still."""

import pytest

from orchestrator.config import RecoveryConfig
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import WorkerOnNode
from orchestrator.control.stalls import find_stalled
from orchestrator.messages import Ended, Outcome, Phase, WorkerReport
from tests.orchestrator.control.stories import rank

LIMITS = RecoveryConfig(heartbeat_timeout_s=5.0, progress_timeout_s=60.0, start_timeout_s=300.0)


def at(node: str, worker: WorkerReport) -> WorkerOnNode:
    return WorkerOnNode(node=node, worker=worker)


def test_of_a_standstill_the_silent_worker_is_the_culprit():
    waiting = at("a", rank(0, last_progress_s=20.0, silent_s=0.4))
    frozen = at("b", rank(1, last_progress_s=20.0, silent_s=6.0))
    blamed = find_stalled([waiting, frozen], LIMITS)
    assert blamed == (frozen, Cause.FROZEN, "no sign of life for 6.0 s in phase training after step 7")


def test_when_all_still_beat_the_one_furthest_behind_is_the_culprit():
    ahead = at("a", rank(0, step=8, last_progress_s=61.0))
    behind = at("b", rank(1, step=7, last_progress_s=61.0))
    blamed = find_stalled([ahead, behind], LIMITS)
    assert blamed == (behind, Cause.HUNG, "no progress for 61.0 s in phase training after step 7")


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.LOADING, Phase.WARMING])
def test_loading_and_compiling_may_take_longer(phase: Phase):
    assert find_stalled([at("a", rank(0, phase=phase, last_progress_s=200.0))], LIMITS) is None
    assert find_stalled([at("a", rank(0, phase=phase, last_progress_s=301.0))], LIMITS) is not None


def test_a_process_that_still_imports_may_be_silent_for_long():
    assert find_stalled([at("a", rank(0, phase=Phase.STARTING, silent_s=200.0))], LIMITS) is None
    assert find_stalled([at("a", rank(0, phase=Phase.STARTING, silent_s=301.0))], LIMITS) is not None


def test_the_last_checkpoint_has_the_time_that_a_stop_has():
    assert find_stalled([at("a", rank(0, phase=Phase.SAVING, last_progress_s=599.0))], LIMITS) is None
    assert find_stalled([at("a", rank(0, phase=Phase.SAVING, last_progress_s=601.0))], LIMITS) is not None


def test_workers_that_are_done_can_not_stall():
    done = rank(0, last_progress_s=1e6, silent_s=1e6, ended=Ended(outcome=Outcome.FINISHED, step=9))
    assert find_stalled([at("a", done), at("b", rank(1, exit_code=1, silent_s=1e6))], LIMITS) is None
