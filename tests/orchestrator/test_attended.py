"""Who was not looking charges nobody with that time."""

from __future__ import annotations

from orchestrator.attended import AttendedClock


class Time:
    """A clock that stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_it_advances_with_the_time_between_two_looks():
    time = Time()
    clock = AttendedClock(time, max_gap_s=1.0)

    time.now_s += 0.5
    assert clock.look() == 0.5
    time.now_s += 0.25
    assert clock.look() == 0.75


def test_a_pause_counts_no_more_than_the_longest_gap():
    time = Time()
    clock = AttendedClock(time, max_gap_s=1.0)
    clock.look()

    time.now_s += 40.0

    assert clock.look() == 1.0
    time.now_s += 0.5
    assert clock.look() == 1.5


def test_between_two_looks_it_stands_still():
    time = Time()
    clock = AttendedClock(time, max_gap_s=1.0)
    time.now_s += 0.5
    clock.look()

    time.now_s += 0.5

    assert clock.now() == 0.5
