"""The attempts of a run as its journal tells them, and the pace between its checkpoints. Pure."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from orchestrator.control.events import (
    AttemptStarted,
    CheckpointCommitted,
    Event,
    FaultsSeen,
    StepReached,
    TrainingResumed,
    WorkersEnded,
    WorkersGone,
)

ATTEMPTS_SHOWN = 50
MACHINES_SHOWN = 4


def attempts_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    """JSON-ready, the newest first: where each ran, from which step, and what ended it."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, AttemptStarted):
            found[event.attempt] = _begun(event)
        elif isinstance(event, TrainingResumed) and event.attempt in found:
            found[event.attempt] |= {"from_step": event.from_step, "source": event.source.value}
        elif isinstance(event, StepReached) and event.attempt in found:
            found[event.attempt] |= {"first_step_at_s": event.at_s}
        elif isinstance(event, CheckpointCommitted) and event.attempt in found:
            found[event.attempt] |= {"committed_step": event.step, "committed_at_s": event.at_s}
        elif isinstance(event, FaultsSeen) and event.attempt in found:
            found[event.attempt] |= {"ending": event.faults[0].cause.value if event.faults else "unknown"}
        elif isinstance(event, WorkersEnded) and event.attempt in found:
            found[event.attempt] |= {"ending": event.outcome.value}
        elif isinstance(event, WorkersGone) and event.attempt in found:
            found[event.attempt] |= {"gone_at_s": event.at_s}
    return [found[number] for number in sorted(found, reverse=True)[:ATTEMPTS_SHOWN]]


def _begun(event: AttemptStarted) -> dict[str, Any]:
    return {
        "attempt": event.attempt,
        "began_at_s": event.at_s,
        "num_nodes": len(event.placement),
        "machines": [placed.machine for placed in event.placement[:MACHINES_SHOWN]],
        "from_step": None,
        "source": None,
        "first_step_at_s": None,
        "committed_step": None,
        "committed_at_s": None,
        "ending": None,
        "gone_at_s": None,
    }


def step_time_between_checkpoints(events: Sequence[Event]) -> float | None:
    """Seconds a step, the median over stretches between a checkpoint and the next of the same attempt; None where there is no such stretch.

    Both times are by the clock of the controller that saw them; one that went backwards counts for nothing.
    """
    marks = [event for event in events if isinstance(event, StepReached | CheckpointCommitted)]
    paces = [
        (after.at_s - before.at_s) / (after.step - before.step)
        for before, after in pairwise(marks)
        if after.attempt == before.attempt and after.step > before.step and after.at_s > before.at_s
    ]
    return median(paces) if paces else None
