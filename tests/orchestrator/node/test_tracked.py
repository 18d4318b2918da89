"""What an agent makes of its workers' messages."""

from __future__ import annotations

from model.train.metrics import StepMetrics
from orchestrator.messages import (
    Beat,
    CheckpointLost,
    Committed,
    Ended,
    Failed,
    Message,
    Outcome,
    Phase,
    Resumed,
    WorkerReport,
    grown_older,
)
from orchestrator.node.tracked import Tracked, aged, exited, heard, milestones, track


def told(*messages: Message, every_s: float = 1.0) -> Tracked:
    """A record after messages at 1, 2, … seconds; its process was spawned at 0."""
    record = track(rank=3, pid=42, now_s=0.0)
    for count, message in enumerate(messages, start=1):
        record = heard(record, message, count * every_s)
    return record


def is_news(before: WorkerReport, after: WorkerReport) -> bool:
    return milestones(before) != milestones(after)


def training(step: int, metrics: StepMetrics | None = None) -> Beat:
    return Beat(phase=Phase.TRAINING, step=step, metrics=metrics)


def test_a_beat_without_a_new_step_is_a_sign_of_life_but_no_progress():
    report = aged(told(training(5), training(5)), now_s=10.0)

    assert (report.silent_s, report.last_progress_s, report.age_s) == (8.0, 9.0, 10.0)


def test_a_long_look_at_held_out_text_gets_somewhere_with_every_batch():
    report = aged(
        told(training(5), Beat(phase=Phase.TRAINING, step=5, evaluated=1), Beat(phase=Phase.TRAINING, step=5, evaluated=2)), now_s=10.0
    )

    assert report.last_progress_s == 7.0


def test_a_beat_that_says_no_loss_keeps_the_last_one():
    measured = StepMetrics(loss=2.5, grad_norm=1.0, tokens=64)

    assert told(training(5, measured), training(5)).report.metrics == measured


def test_skipped_updates_are_those_of_the_last_beat():
    assert told(training(5), Beat(phase=Phase.TRAINING, step=6, num_skipped=2)).report.num_skipped == 2


def test_the_first_failure_counts():
    first, second = Failed(error_type="First", text="a"), Failed(error_type="Second", text="b")

    assert told(first, second).report.failed == first


def test_everything_that_was_said_is_in_the_report():
    report = told(Resumed(step=4), training(5), Committed(step=5), Ended(outcome=Outcome.FINISHED, step=6)).report

    assert (report.resumed, report.committed_step, report.step, report.phase) == (Resumed(step=4), 5, 6, Phase.DONE)
    assert report.ended == Ended(outcome=Outcome.FINISHED, step=6)


def test_the_first_step_after_a_resume_is_news_and_the_second_is_not():
    resumed = told(Resumed(step=4), training(4))
    first, second = heard(resumed, training(5), 9.0), heard(resumed, training(6), 9.0)

    assert is_news(resumed.report, first.report)
    assert not is_news(first.report, second.report)


def test_an_exit_is_news():
    record = told(training(5))

    assert is_news(record.report, exited(record, -9, killed_by_agent=True).report)


def test_a_worker_that_is_told_to_leave_is_news():
    told_off = told(training(5)), told(Beat(phase=Phase.TRAINING, step=5, told_to_leave=True))

    assert is_news(*(record.report for record in told_off))


def test_a_lost_checkpoint_is_news_and_stays_until_another_is_committed():
    lost = CheckpointLost(step=5, ranks=(1,), text="no answer")
    record = told(training(5), lost)

    assert record.report.lost_checkpoint == lost
    assert is_news(told(training(5)).report, record.report)
    assert heard(record, training(6), 9.0).report.lost_checkpoint == lost
    assert heard(record, Committed(step=10), 9.0).report.lost_checkpoint is None


def test_a_report_that_can_not_be_renewed_grows_older():
    report = grown_older(aged(told(training(5)), now_s=2.0), by_s=3.0)

    assert (report.silent_s, report.last_progress_s, report.age_s) == (4.0, 4.0, 5.0)
