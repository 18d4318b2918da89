import itertools

import pytest

from data_pipeline.store.protocol import AccessDenied, StoreUnavailable
from data_pipeline.store.retry import CredentialsAbsent, TransientError, backoff_delays, with_retries


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.now_s += delay_s


def retry(operation, time: FakeTime, deadline_s: float = 10.0):
    return with_retries(operation, delays_s=backoff_delays(chance=lambda: 1.0), deadline_s=deadline_s, clock=time.clock, sleep=time.sleep)


def failing(*failures: Exception):
    """An operation that fails so often, then returns "done"."""
    left = iter(failures)

    def operation() -> str:
        for failure in left:
            raise failure
        return "done"

    return operation


def test_delays_double_up_to_the_largest() -> None:
    longest = list(itertools.islice(backoff_delays(chance=lambda: 1.0, first_delay_s=1.0, largest_delay_s=5.0), 5))
    shortest = list(itertools.islice(backoff_delays(chance=lambda: 0.0, first_delay_s=1.0, largest_delay_s=5.0), 5))
    assert longest == [1, 2, 4, 5, 5]
    assert shortest == [0.5, 1, 2, 2.5, 2.5]


def test_transient_failures_are_waited_out() -> None:
    time = FakeTime()
    assert retry(failing(TransientError("busy"), TransientError("busy")), time) == "done"
    assert time.slept_s == [0.1, 0.2]


def test_a_store_that_says_how_long_to_wait_is_obeyed_within_reason() -> None:
    time = FakeTime()
    assert retry(failing(TransientError("busy", pause_s=3.0), TransientError("busy", pause_s=3600.0)), time, deadline_s=60.0) == "done"
    assert time.slept_s == [3.1, 10.2]


def test_a_permanent_failure_passes_at_once() -> None:
    time = FakeTime()
    with pytest.raises(AccessDenied, match="no"):
        retry(failing(AccessDenied("no")), time)
    assert time.slept_s == []


def test_the_deadline_ends_it_with_the_last_reason_and_is_never_overslept() -> None:
    time = FakeTime()
    with pytest.raises(StoreUnavailable, match=r"^busy; gave up after 4 attempts in 1 s: check storage.endpoint_url") as caught:
        retry(failing(*[TransientError("busy")] * 99), time, deadline_s=1.0)
    assert isinstance(caught.value.__cause__, TransientError)
    assert time.now_s <= 101.0


def test_credentials_that_stay_away_are_access_denied_in_the_end() -> None:
    time = FakeTime()
    assert retry(failing(CredentialsAbsent("none yet"), TransientError("busy")), time) == "done"
    with pytest.raises(AccessDenied, match=r"^none yet \(gave up after 4 attempts in 1 s\)$"):
        retry(failing(*[CredentialsAbsent("none yet")] * 99), time, deadline_s=1.0)
