"""What one node's workers come to: all that a controller must look at again and again, of a size that does not grow with them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from orchestrator.control.causes import Cause, classify
from orchestrator.messages import DataUse, Ended, Phase, WorkerReport

PHASES = list(Phase)
STANDING = attrgetter("phase", "step", "begun", "evaluated")
STEP = attrgetter("step")
SKIPPED = attrgetter("num_skipped")
PAUSE = attrgetter("last_progress_s")
SILENCE = attrgetter("is_stopped", "silent_s")
TOLD = attrgetter("told_to_leave")
DATA = attrgetter("data")
FETCHED, USED, WAIT = attrgetter("fetched_bytes"), attrgetter("used_bytes"), attrgetter("wait_share")
UNREAD, REPETITIVE = attrgetter("unread_rows"), attrgetter("repetitive_rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedRanks:
    """Workers of one node that failed of one cause."""

    cause: Cause
    rank: int
    """The lowest of them."""
    detail: str
    """What it said."""
    num_ranks: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The workers of one node at the moment of their agent's report."""

    num_workers: int
    last_step: int
    """The highest step that any of them finished."""
    num_skipped: int
    """The most updates that any of them skipped."""
    leader: WorkerReport
    """The lowest rank: on the first node it is rank 0, which speaks for the attempt."""
    behind: WorkerReport | None
    """Of those that run, the one furthest behind (phase, step, step begun, held-out batches), then the one without progress for longest."""
    silent: WorkerReport | None
    """Of those that run, the one that was silent for the longest, a stopped one before others; where some still start, of the others."""
    is_level: bool
    """All that run stand at the same step of the same phase, have begun the same, and are as far in held-out text."""
    failed: tuple[FailedRanks, ...]
    """Those that failed by themselves, by cause."""
    ended: tuple[Ended, ...]
    """How those ended that said so."""
    data: DataUse
    told_to_leave: bool
    """Some of them got SIGTERM from outside."""


def summarise(workers: Sequence[WorkerReport]) -> Summary | None:
    """None for no workers. Made of every report of a thousand nodes, so most of it is left to functions that are not written in Python."""
    if not workers:
        return None
    running = [worker for worker in workers if worker.exit_code is None and worker.ended is None]
    standings = [*map(STANDING, running)]
    is_level = standings.count(standings[0]) == len(standings) if standings else True
    stopped = [worker for worker in workers if worker.exit_code is not None or worker.failed is not None]
    return Summary(
        num_workers=len(workers),
        last_step=max(map(STEP, workers)),
        num_skipped=max(map(SKIPPED, workers)),
        leader=workers[0],
        behind=max(running, key=PAUSE, default=None) if is_level else min(running, key=lambda one: (*standing_of(one), -PAUSE(one))),
        silent=max([one for one in running if one.is_stopped or one.phase is not Phase.STARTING] or running, key=SILENCE, default=None),
        is_level=is_level,
        failed=_by_cause(filter(failed_by_itself, stopped)) if stopped else (),
        ended=tuple(worker.ended for worker in workers if worker.ended is not None),
        data=sum_of([*map(DATA, workers)]),
        told_to_leave=any(map(TOLD, workers)),
    )


def sum_of(used: Sequence[DataUse]) -> DataUse:
    """What the data of several workers cost together."""
    return DataUse(
        fetched_bytes=sum(map(FETCHED, used)),
        used_bytes=sum(map(USED, used)),
        wait_share=max(map(WAIT, used), default=0.0),
        unread_rows=max(map(UNREAD, used), default=0),
        repetitive_rows=max(map(REPETITIVE, used), default=0),
    )


def failed_by_itself(stopped: WorkerReport) -> bool:
    """A worker that has stopped reported an error, or ended early and not by its agent's hand."""
    return stopped.failed is not None or (stopped.ended is None and not stopped.killed_by_agent)


def _by_cause(failed: Iterable[WorkerReport]) -> tuple[FailedRanks, ...]:
    found: dict[Cause, tuple[int, str]] = {}
    causes: list[Cause] = []
    for worker in failed:
        cause, detail = classify(worker.exit_code, worker.failed)
        causes.append(cause)
        found.setdefault(cause, (worker.rank, detail))
    return tuple(FailedRanks(cause=one, rank=rank, detail=text, num_ranks=causes.count(one)) for one, (rank, text) in found.items())


def standing_of(worker: WorkerReport) -> tuple[int, int, int, int]:
    """How far a worker is, to compare."""
    return PHASES.index(worker.phase), worker.step, worker.begun, worker.evaluated
