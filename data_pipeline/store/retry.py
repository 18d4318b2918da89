"""The one place for retries: exponential backoff with jitter until a deadline. Pure: clock, sleep and chance are arguments."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from data_pipeline.store.protocol import AccessDenied, StoreError, StoreUnavailable

Result = TypeVar("Result")


LONGEST_PAUSE_S = 10.0
"""How much longer than we would a store may tell us to wait before we ask again."""


class TransientError(StoreError):
    """A failure that may go away by itself: it is retried, and callers of a store never see it. A busy store may have said how long."""

    def __init__(self, message: str, *, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class FileSystemFailed(TransientError):
    """What objects lie on is away, full or broken: the file system of a store in a directory, or a server's; the line says what to do."""


class CredentialsAbsent(TransientError):
    """There are no valid credentials at this moment: what hands them out may be about to renew them. In the end an AccessDenied."""


def backoff_delays(*, chance: Callable[[], float], first_delay_s: float = 0.1, largest_delay_s: float = 5.0) -> Iterator[float]:
    """Delays without end, in seconds, which double up to `largest_delay_s`.

    `chance` returns numbers in [0, 1) and draws each delay from its upper half, so that clients that failed together don't retry together;
    ranks are seeded alike, so it must not be the process's own generator.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("equal jitter").
    """
    delay_s = first_delay_s
    while True:
        yield delay_s * (0.5 + 0.5 * chance())
        delay_s = min(2 * delay_s, largest_delay_s)


def with_retries(
    operation: Callable[[], Result],
    *,
    delays_s: Iterator[float],
    deadline_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Result:
    """The result of `operation`, which is called again after every TransientError; any other error passes at once.

    Where the next call would come later than `deadline_s` after the first, raises StoreUnavailable, or AccessDenied for absent credentials.
    """
    gives_up_at_s = clock() + deadline_s
    num_attempts = 0
    while True:
        num_attempts += 1
        try:
            return operation()
        except TransientError as error:
            delay_s = next(delays_s) + min(error.pause_s, LONGEST_PAUSE_S)
            if clock() + delay_s > gives_up_at_s:
                raise _given_up(error, f"gave up after {num_attempts} attempts in {deadline_s:g} s") from error
            sleep(delay_s)


def _given_up(error: TransientError, how: str) -> StoreError:
    if isinstance(error, CredentialsAbsent):
        return AccessDenied(f"{error} ({how})")
    if isinstance(error, FileSystemFailed):
        return StoreUnavailable(f"{error} ({how})")
    return StoreUnavailable(f"{error}; {how}: check storage.endpoint_url, the network and the server")
