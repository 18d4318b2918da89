"""A node's notice: SIGTERM to what holds its processes, or to all of them, a while before SIGKILL. So do systemd, Slurm and Kubernetes.

Ray's processes would end at once, and every worker with them before it has saved. So Ray is started with SIGTERM blocked, which whatever
it starts inherits; workers alone let it in, save and leave. What holds the node waits for them, and then ends the node.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from orchestrator.deadlines import NODE_LINGERS_S, NODE_LOOKS_EVERY_S
from orchestrator.node.processes import Process, kill_all, look_at, processes, send, tree_of, variables_of

_PR_SET_CHILD_SUBREAPER = 36


def keep_sigterm_off() -> None:
    """From now on SIGTERM waits, at this process and at all that it starts, but for those that let it in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # whose parent ends is still found below this one


def run_node(command: Sequence[str]) -> int:
    """Runs what starts Ray on this machine, until nothing is left of it or the node got its notice: the exit status. Raises OSError."""
    keep_sigterm_off()
    starter = subprocess.Popen(command)
    status = starter.returncode = hold_node().get(starter.pid, 0)
    return status if status >= 0 else 128 - status


def hold_node() -> dict[int, int]:
    """Returns when no child of this process is left: by themselves or, after SIGTERM, once the workers among them have left.

    The exit statuses of those that ended by themselves. Whoever ends below is reaped here: a dead raylet's processes would take its zombie
    for alive.
    """
    statuses: dict[int, int] = {}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while _reap(statuses):
        told = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, NODE_LOOKS_EVERY_S)
        if told is not None and told.si_signo == signal.SIGTERM:
            _let_workers_leave()
            kill_all(lambda: tree_of(os.getpid()))
            break
    return statuses


def _let_workers_leave() -> None:
    """Waits for as long as they take: whoever gave the notice knows when it has waited enough."""
    workers = _workers_below(os.getpid())
    for worker in workers:
        send(worker.pid, signal.SIGTERM)
    while any(_is_there(worker) for worker in workers):
        time.sleep(NODE_LOOKS_EVERY_S)
    time.sleep(NODE_LINGERS_S if workers else 0.0)


def _is_there(process: Process) -> bool:
    now = look_at(process.pid)
    return now is not None and now.start_ticks == process.start_ticks


def _workers_below(pid: int) -> list[Process]:
    """Their helpers are theirs to end."""
    below = set(tree_of(pid))
    leaders = [process for process in processes() if process.pid in below and process.session == process.pid]
    return [process for process in leaders if "BRAID_RUN" in variables_of(process.pid)]


def _reap(statuses: dict[int, int]) -> bool:
    """Whether a child is left."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = os.waitstatus_to_exitcode(ended[1])
        return True
    return False
