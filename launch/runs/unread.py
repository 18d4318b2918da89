"""A run whose records can't be read: its controller is found by the store that it works on, and can still be told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import StoreError
from launch.errors import NoSuchRun, NotOpen, NotReachable
from launch.runs.connection import RunHandle, reachable
from launch.status import ENDED, Status
from orchestrator.codec import DecodeError
from orchestrator.errors import JournalBroken

UNREADABLE = (StoreError, JournalBroken, DecodeError, NoSuchRun)
"""What reading a run's records may end in, where the run may be there all the same."""
POLL_S = 0.3


@contextmanager
def find_unread(storage: StorageConfig, name: str, address: str) -> Iterator[RunHandle | None]:
    """The handle of the controller of the run of this name in this store, whatever its id; None where there is none, or no cluster."""
    with reachable(address) as connection:
        yield connection.find_unread(name, storage) if connection else None


def stop_unread(storage: StorageConfig, name: str, why: Exception, *, now: bool, address: str, tell: Callable[[str], None]) -> Status:
    """Stops a run whose records can't be read, because of `why`, through its controller. Returns the last status that it told.

    Raises `why` where no controller has the run, NotOpen where the controller can't do it.
    """
    with find_unread(storage, name, address) as handle:
        if handle is None:
            raise why
        tell(f"{name}: its records can't be read ({why}); its controller is asked, and what it says is all that is known")
        try:
            handle.stop(now=now)
        except NotOpen as error:
            if not now:
                raise NotOpen(
                    f"{error}; the stop may follow once its records can be read again; "
                    f"`braid stop {name} --now` ends its workers without that, `braid repair {name}` mends what was lost"
                ) from error
            ended = handle.end()
            raise NotOpen(
                f"run {name}: its controller and its agents on {ended} nodes are ended, without a checkpoint; its journal was not told, "
                f"so `braid stop {name}` again when it can be read"
            ) from error
        return _last_status(handle, name, tell)


def _last_status(handle: RunHandle, name: str, tell: Callable[[str], None]) -> Status:
    """What the controller says until it leaves, which it does when the run has ended. Raises NotReachable where it says nothing at all."""
    tell(f"stopping {name} …")
    last: Status | None = None
    while last is None or last["state"] not in ENDED:
        try:
            last = handle.status()
        except NotReachable:
            if last is None:
                raise
            tell(f"{name}: its controller has left, as it does when the run has ended; its records would say how")
            return last | {"state": "stopped"}
        time.sleep(POLL_S)
    return last
