"""What one node's workers come to."""

from orchestrator.control.summary import summarise
from orchestrator.messages import Ended, Failed, Outcome, Phase
from tests.orchestrator.control.stories import rank

FAILED = Failed(error_type="ValueError", text="no")
DONE = Ended(outcome=Outcome.FINISHED, step=9)


def test_no_workers_come_to_nothing():
    assert summarise(()) is None


def test_workers_at_one_step():
    summary = summarise((rank(0, num_skipped=1), rank(1, num_skipped=2, silent_s=0.4)))
    assert summary is not None
    assert (summary.num_workers, summary.last_step, summary.num_skipped, summary.is_level) == (2, 7, 2, True)
    assert (summary.failed, summary.ended, summary.told_to_leave) == ((), (), False)
    assert summary.leader.rank == 0
    assert summary.silent is not None
    assert summary.silent.rank == 1


def test_the_one_furthest_behind_is_that_of_the_earlier_phase_then_step_then_longest_without_progress():
    def behind(*workers) -> int:
        summary = summarise(workers)
        assert summary is not None
        assert summary.behind is not None
        return summary.behind.rank

    assert behind(rank(0, step=3), rank(1, phase=Phase.LOADING, step=9)) == 1
    assert behind(rank(0, step=3), rank(1, step=2), rank(2, step=3)) == 1
    assert behind(rank(0, step=3, begun=4), rank(1, step=3, begun=3), rank(2, step=3, begun=4)) == 1
    assert behind(rank(0, evaluated=4), rank(1, evaluated=3), rank(2, evaluated=4)) == 1
    assert behind(rank(0), rank(1, last_progress_s=5.0), rank(2, last_progress_s=4.0)) == 1
    assert behind(rank(0), rank(1, step=2, last_progress_s=4.0), rank(2, step=2, last_progress_s=5.0), rank(3, step=2)) == 2


def test_those_that_run_are_not_those_that_ended():
    summary = summarise((rank(0, ended=DONE, step=9, silent_s=99.0), rank(1, exit_code=-9, step=1, silent_s=99.0), rank(2, step=8)))
    assert summary is not None
    assert summary.behind is summary.silent
    assert (summary.behind and summary.behind.rank, summary.last_step, summary.is_level) == (2, 9, True)
    assert [one.rank for one in summary.failed] == [1]
    assert summary.ended == (DONE,)
    over = summarise((rank(0, ended=DONE),))
    assert over is not None
    assert (over.behind, over.silent, over.is_level) == (None, None, True)


def test_who_failed_by_itself():
    by_agent = rank(0, exit_code=-9, killed_by_agent=True)
    summary = summarise((by_agent, rank(1, failed=FAILED), rank(2, exit_code=1), rank(3, exit_code=0, ended=DONE), rank(4)))
    assert summary is not None
    assert [(one.rank, one.num_ranks) for one in summary.failed] == [(1, 2)]
    told = summarise((rank(0, failed=FAILED, exit_code=-9, killed_by_agent=True),))
    assert told is not None
    assert len(told.failed) == 1, "its word counts, however it ended"


def test_a_node_is_level_only_where_all_stand_together_and_told_where_one_was():
    summary = summarise((rank(0), rank(1, step=8, told_to_leave=True)))
    assert summary is not None
    assert (summary.is_level, summary.told_to_leave) == (False, True)
