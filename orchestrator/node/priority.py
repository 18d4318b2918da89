"""How much of a machine's time a process gets beside others. Linux only."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

_GONE = (ProcessLookupError, FileNotFoundError)


def run_when_idle(pid: int) -> None:
    """Only what nobody else wants, where that can be undone. For a process that has just begun: what it starts is told by it."""
    if _can_be_undone():
        with suppress(*_GONE):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def run_as_usual(pid: int) -> None:
    """As any process. Ray's actors and what they start are nice, and the first choice of the kernel's out-of-memory killer.

    Without the privilege to undo it, it stays.
    """
    with suppress(PermissionError, *_GONE):
        while any([_make_usual(thread) for thread in _threads(pid)]):  # again, since one that was not yet told may have started others
            pass
    with suppress(PermissionError, *_GONE), open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("0")


def _threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def _make_usual(thread: int) -> bool:
    """Whether it was not. One that has ended meanwhile holds up nobody."""
    with suppress(*_GONE):
        is_idle, is_nice = os.sched_getscheduler(thread) == os.SCHED_IDLE, os.getpriority(os.PRIO_PROCESS, thread) > 0
        if is_idle:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        if is_nice:
            os.setpriority(os.PRIO_PROCESS, thread, 0)
        return is_idle or is_nice
    return False


@functools.cache
def _can_be_undone() -> bool:
    """Tried by a thread that ends with it: without the privilege there is no way back."""

    def try_it() -> bool:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        except PermissionError:
            return False
        return True

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(try_it).result()
