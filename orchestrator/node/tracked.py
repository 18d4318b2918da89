"""What an agent knows of one worker, from its messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from orchestrator.messages import Beat, CheckpointLost, Committed, Ended, Failed, Levels, Message, Phase, Ready, Resumed, WorkerReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """One worker: its report, and the moments that the report's ages count from, by the agent's monotonic clock."""

    report: WorkerReport
    spawned_s: float
    heard_s: float
    progressed_s: float


def track(rank: int, pid: int, now_s: float) -> Tracked:
    """A worker that was spawned just now."""
    return Tracked(report=WorkerReport(rank=rank, pid=pid), spawned_s=now_s, heard_s=now_s, progressed_s=now_s)


def heard(tracked: Tracked, message: Message, now_s: float) -> Tracked:
    """What is known after a message. The first failure counts: what follows it is its consequence."""
    before = tracked.report
    after = _absorb(before, message)
    progressed = _got_to(after) != _got_to(before)
    return replace(tracked, report=after, heard_s=now_s, progressed_s=now_s if progressed else tracked.progressed_s)


def _got_to(report: WorkerReport) -> tuple[object, ...]:
    return report.phase, report.step, report.evaluated


def _absorb(report: WorkerReport, message: Message) -> WorkerReport:
    match message:
        case Beat():
            told = {level.name: getattr(message, level.name) for level in fields(Levels)}
            return replace(report, **{name: value for name, value in told.items() if value is not None})
        case Ready():
            return report
        case Resumed():
            return replace(report, resumed=message)
        case Committed(step=step):
            return replace(report, committed_step=max(step, report.committed_step or 0), lost_checkpoint=None)
        case CheckpointLost():
            return replace(report, lost_checkpoint=message)
        case Ended(step=step):
            return replace(report, ended=message, step=step, phase=Phase.DONE)
        case Failed():
            return report if report.failed else replace(report, failed=message)


def exited(tracked: Tracked, exit_code: int, *, killed_by_agent: bool) -> Tracked:
    return replace(tracked, report=replace(tracked.report, exit_code=exit_code, killed_by_agent=killed_by_agent))


def stopped(tracked: Tracked, *, is_stopped: bool) -> Tracked:
    return replace(tracked, report=replace(tracked.report, is_stopped=is_stopped))


def milestones(report: WorkerReport) -> tuple[object, ...]:
    """What a controller should learn of at once when it changes; steps and what they measured can wait for its next look."""
    return (
        report.rank,
        report.phase,
        report.resumed,
        report.committed_step,
        report.lost_checkpoint,
        report.told_to_leave,
        report.ended,
        report.failed,
        report.exit_code,
        report.is_stopped,
        _has_stepped(report),
    )


def _has_stepped(report: WorkerReport) -> bool:
    return report.resumed is not None and report.step > report.resumed.step


def aged(tracked: Tracked, now_s: float) -> WorkerReport:
    """The report as of now."""
    return replace(
        tracked.report,
        silent_s=now_s - tracked.heard_s,
        last_progress_s=now_s - tracked.progressed_s,
        age_s=now_s - tracked.spawned_s,
    )
