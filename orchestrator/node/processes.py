"""What /proc says of processes, and killing them for certain. Linux only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.deadlines import PROCESSES_GONE_WITHIN_S

_FLAGS, _EXIT_STATUS = 6, 49
"""Of the fields of /proc/PID/stat that come after the name: see proc(5)."""
_PF_EXITING = 4


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    session: int
    start_ticks: int
    """Start of the process, in clock ticks since boot: together with the pid it names a process for good, as pids are reused."""


def processes() -> list[Process]:
    """Every process that is not a zombie."""
    found = (look_at(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def look_at(pid: int) -> Process | None:
    """What /proc says of one process; None when there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, _group, session, *rest = stat.rpartition(")")[2].split()
    if state in "ZX":
        return None
    return Process(pid=pid, parent=int(parent), session=int(session), start_ticks=int(rest[15]))


def is_stopped(pid: int) -> bool:
    """By SIGSTOP or a debugger: it does nothing until somebody has it go on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "Tt"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ending_status(pid: int) -> int | None:
    """The exit status, −n for signal n, of a process that is ending: known seconds before its end where much memory is to be torn down.

    None where it runs, or where that can't be known before it has ended: of a status of 0 too.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    flags, status = int(fields[_FLAGS]), int(fields[_EXIT_STATUS])
    return os.waitstatus_to_exitcode(status) if flags & _PF_EXITING and status else None


def members_of_session(session: int) -> list[int]:
    return [process.pid for process in processes() if process.session == session]


def tree_of(root: int) -> list[int]:
    """`root` and all that descends from it."""
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def pids_with_environment(name: str, value: str) -> list[int]:
    """Processes of this user which were started with the variable. One that renamed itself may have overwritten its own."""
    return [process.pid for process in processes() if variables_of(process.pid).get(name) == value]


def variables_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty where that can't be read, for example of another user's."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(variable.split("=", 1) for variable in text.split("\0") if "=" in variable)


def kill_all(find: Callable[[], Iterable[int]], *, timeout_s: float = PROCESSES_GONE_WITHIN_S) -> list[int]:
    """SIGKILL whatever `find` returns until it returns nothing. The pids that were still there after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left = [pid for pid in find() if pid != os.getpid()]
        for pid in left:
            send(pid, signal.SIGKILL)
        if not left or time.monotonic() > deadline_s:
            return left
        time.sleep(0.02)


def send(pid: int, number: signal.Signals) -> None:
    """Sends a signal; that the process has ended meanwhile is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
