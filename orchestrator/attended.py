"""Time in which one was watching. Pure.

Whoever watches others must not charge them with the time in which it did not look itself: after a SIGSTOP, swapping or a stall of its
virtual machine, all that it watches seems to have been silent for as long. So the time between two looks counts up to a limit only.
"""

from __future__ import annotations

from collections.abc import Callable


class AttendedClock:
    """Seconds since it was made, less those that passed unwatched. It advances at looks only; look more often than every `max_gap_s`."""

    def __init__(self, clock: Callable[[], float], *, max_gap_s: float) -> None:
        self._clock = clock
        self._max_gap_s = max_gap_s
        self._looked_s = clock()
        self._now_s = 0.0

    def look(self) -> float:
        """Advances by the time since the last look, `max_gap_s` at most, and returns the new time."""
        looked_s = self._clock()
        self._now_s += min(looked_s - self._looked_s, self._max_gap_s)
        self._looked_s = looked_s
        return self._now_s

    def now(self) -> float:
        """The time at the last look."""
        return self._now_s
