"""What keeping training's state costs its steps. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Taken = Literal["", "snapshot", "checkpoint"]
Asked = Literal["", "snapshot", "checkpoint", "end"]
Meanwhile = Literal["", "readying", "sealing", "uploading"]
ASKED: tuple[Asked, ...] = ("", "snapshot", "checkpoint", "end")
"""As numbers ride in a step's reduction."""
WARM_UP = 3
"""First steps, which compile and fill caches."""
WINDOW = 3
"""A copy that begins at a step's end holds up the next one's update, which the step after that waits for."""
QUIET_FIRST, QUIET_BETWEEN = 12, 5
"""Steps without anything beside them, before the first of what is asked for and before each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    seconds: float
    taken: Taken = ""
    """At its end; the time that this takes is the step's."""
    meanwhile: Meanwhile = ""
    """What was going on beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """What is asked for after which step: so many of each, one at a time, with quiet steps between them."""

    num_snapshots: int
    num_checkpoints: int
    last_start_s: float
    """When no more than the first of each is begun."""

    def ask(self, steps: Sequence[Step], now_s: float) -> Asked:
        """After the next step."""
        if not self._is_quiet(steps):
            return ""
        wanted: tuple[tuple[Taken, int], ...] = (("snapshot", self.num_snapshots), ("checkpoint", self.num_checkpoints))
        for kind, most in wanted:
            done = sum(step.taken == kind for step in steps)
            if done < (most if now_s < self.last_start_s else min(most, 1)):
                return kind
        return "end"

    def _is_quiet(self, steps: Sequence[Step]) -> bool:
        is_first = not any(step.taken for step in steps)
        last = steps[WARM_UP:][-(QUIET_FIRST if is_first else QUIET_BETWEEN) :]
        return len(last) >= (QUIET_FIRST if is_first else QUIET_BETWEEN) and not any(step.taken or step.meanwhile for step in last)


def usual_s(steps: Sequence[Step]) -> float:
    """The median of steps with nothing beside them."""
    held_up = _held_up(steps)
    return statistics.median(
        step.seconds for number, step in enumerate(steps) if number >= WARM_UP and number not in held_up and not step.meanwhile
    )


def stalls_s(steps: Sequence[Step], kind: Taken) -> list[float]:
    """How much longer the steps around each one took than as many usual ones, in order."""
    usual = usual_s(steps)
    windows = [steps[number : number + WINDOW] for number, step in enumerate(steps) if step.taken == kind]
    return [max(0.0, sum(step.seconds - usual for step in window)) for window in windows]


def slowdown(steps: Sequence[Step], meanwhile: Meanwhile) -> dict[str, float] | None:
    """By how much steps beside it took longer than usual, as a share, without those that were held up by something taken; None for none."""
    held_up, usual = _held_up(steps), usual_s(steps)
    beside = [
        step.seconds for number, step in enumerate(steps) if number >= WARM_UP and number not in held_up and step.meanwhile == meanwhile
    ]
    if not beside:
        return None
    return {
        "median": statistics.median(beside) / usual - 1,
        "mean": statistics.mean(beside) / usual - 1,
        "max": max(beside) / usual - 1,
        "steps": len(beside),
    }


def told(stalls: Sequence[float]) -> dict[str, Any] | None:
    if not stalls:
        return None
    return {"first": stalls[0], "median": statistics.median(stalls), "max": max(stalls), "all": list(stalls)}


def _held_up(steps: Sequence[Step]) -> set[int]:
    return {number + later for number, step in enumerate(steps) if step.taken for later in range(WINDOW)}
