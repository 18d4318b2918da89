"""What a recovery took: moments after a kill, and the times between them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from orchestrator.control.events import AttemptStarted, Event, FaultsSeen, StepReached, TrainingResumed, WorkersGone

T = TypeVar("T")
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ (.*)")
_STEP = re.compile(r"step (\d+)/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """After one kill."""

    next_step_s: float
    """To the end of the first step that was not trained before."""
    steps_lost: int
    """That were trained again before it."""
    source: str
    """Where the state came from."""
    hops: dict[str, float]
    """Seconds between moments, in their order, by the name of each one's end."""


def recovery(killed_s: float, moments: Mapping[str, float], *, reached: int, from_step: int, source: str = "store") -> Recovery:
    """`moments` by seconds since the epoch; the last in time is the next step's end. `reached`: the last step that was done before."""
    hops, before_s = {}, killed_s
    for name, at_s in sorted(moments.items(), key=lambda moment: moment[1]):
        hops[name], before_s = round(at_s - before_s, 3), at_s
    return Recovery(next_step_s=round(before_s - killed_s, 3), steps_lost=reached - from_step, source=source, hops=hops)


def our_recovery(killed_s: float, events: Sequence[Event], before: Iterable[str], after: Iterable[str]) -> Recovery:
    """By the run's journal, and the first rank's log of the attempt that was hurt and of the one that trains now."""
    own = [event for event in events if event.at_s >= killed_s]
    resumed = _last(own, TrainingResumed)
    reached = max(step for _, step in _steps(before))
    lines = list(after)
    moments = {
        "noticed": _first(own, FaultsSeen).at_s,
        "others_gone": _last(own, WorkersGone).at_s,
        "started": _last(own, AttemptStarted).at_s,
        "ordered": _when(lines, "this is rank"),
        "joined": _when(lines, "run "),
        "loaded": resumed.at_s,
        "first_step": _last(own, StepReached).at_s,
        "next_step": next(at_s for at_s, step in _steps(lines) if step > reached),
    }
    return recovery(killed_s, moments, reached=reached, from_step=resumed.from_step, source=resumed.source.value)


def torchruns_recovery(killed_s: float, lines: Sequence[Mapping[str, float]]) -> Recovery | None:
    """By what its first rank wrote: when a process of it began, and from which step, and when each step ended. None before the next."""
    began = next((line for line in lines if "began" in line and line["at_s"] > killed_s), None)
    if began is None:
        return None
    reached = max(int(line["step"]) for line in lines if "step" in line and line["at_s"] < began["at_s"])
    steps = [line for line in lines if "step" in line and line["at_s"] >= began["at_s"]]
    beyond = next((line for line in steps if line["step"] > reached), None)
    if beyond is None:
        return None
    moments = {"loaded": began["at_s"], "first_step": steps[0]["at_s"], "next_step": beyond["at_s"]}
    return recovery(killed_s, moments, reached=reached, from_step=int(began["began"]))


def last_step(lines: Iterable[str]) -> int:
    """Of a worker's log; 0 for none."""
    return max((step for _, step in _steps(lines)), default=0)


def _steps(lines: Iterable[str]) -> list[tuple[float, int]]:
    """When each step of a log ended."""
    found = ((at_s, _STEP.match(text)) for at_s, text in map(_parse, lines))
    return [(at_s, int(match[1])) for at_s, match in found if match]


def _when(lines: Iterable[str], beginning: str) -> float:
    return next(at_s for at_s, text in map(_parse, lines) if text.startswith(beginning))


def _parse(line: str) -> tuple[float, str]:
    """When a line of a worker's log was written, and its text; without a time, the line has nothing to say here."""
    match = _LINE.match(line)
    return (datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), match[2]) if match else (0.0, "")


def _first(events: Sequence[Event], kind: type[T]) -> T:
    return next(event for event in events if isinstance(event, kind))


def _last(events: Sequence[Event], kind: type[T]) -> T:
    return _first(events[::-1], kind)
