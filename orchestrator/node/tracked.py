"""What an agent knows of one worker, from its messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.messages import Beat, Committed, Ended, Failed, Message, Phase, Resumed, WorkerReport


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRecord:
    """A report and the moments that its ages count from, by the agent's monotonic clock."""

    report: WorkerReport
    spawned_s: float
    heard_s: float
    progressed_s: float


def new_record(rank: int, pid: int, now_s: float) -> WorkerRecord:
    return WorkerRecord(report=WorkerReport(rank=rank, pid=pid), spawned_s=now_s, heard_s=now_s, progressed_s=now_s)


def heard(record: WorkerRecord, message: Message, now_s: float) -> WorkerRecord:
    """The record after a message. The first failure counts: what follows it is its consequence."""
    before = record.report
    after = _absorb(before, message)
    progressed = (after.phase, after.step) != (before.phase, before.step)
    return replace(record, report=after, heard_s=now_s, progressed_s=now_s if progressed else record.progressed_s)


def _absorb(report: WorkerReport, message: Message) -> WorkerReport:
    match message:
        case Beat(phase=phase, step=step, loss=loss, tokens_per_s=speed, num_skipped=num_skipped):
            return replace(
                report,
                phase=phase,
                step=step,
                loss=report.loss if loss is None else loss,
                tokens_per_s=report.tokens_per_s if speed is None else speed,
                num_skipped=num_skipped,
            )
        case Resumed():
            return replace(report, resumed=message)
        case Committed(step=step):
            return replace(report, committed_step=max(step, report.committed_step or 0))
        case Ended(step=step):
            return replace(report, ended=message, step=step, phase=Phase.DONE)
        case Failed():
            return report if report.failed else replace(report, failed=message)


def exited(record: WorkerRecord, exit_code: int, *, killed_by_agent: bool) -> WorkerRecord:
    return replace(record, report=replace(record.report, exit_code=exit_code, killed_by_agent=killed_by_agent))


def is_news(before: WorkerReport, after: WorkerReport) -> bool:
    """True for a change that a controller should learn of at once; steps and losses can wait for its next look."""
    return _milestones(before) != _milestones(after)


def _milestones(report: WorkerReport) -> tuple[object, ...]:
    return report.phase, report.resumed, report.committed_step, report.ended, report.failed, report.exit_code, _has_stepped(report)


def _has_stepped(report: WorkerReport) -> bool:
    return report.resumed is not None and report.step > report.resumed.step


def aged(record: WorkerRecord, now_s: float) -> WorkerReport:
    """The report as of now."""
    return replace(
        record.report,
        silent_s=now_s - record.heard_s,
        last_progress_s=now_s - record.progressed_s,
        age_s=now_s - record.spawned_s,
    )


def grown_older(report: WorkerReport, by_s: float) -> WorkerReport:
    """A report that could not be renewed for `by_s`."""
    return replace(report, silent_s=report.silent_s + by_s, last_progress_s=report.last_progress_s + by_s, age_s=report.age_s + by_s)
