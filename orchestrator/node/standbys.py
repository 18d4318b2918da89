"""Processes that stand by for a node's next workers: they have imported all that takes seconds, and wait to hear who they are."""

from __future__ import annotations

import logging
import selectors
import signal
from collections import defaultdict, deque
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from orchestrator.attended import AttendedClock
from orchestrator.codec import DecodeError
from orchestrator.messages import Beat, Ready, decode
from orchestrator.node.orders import ProcessSpec
from orchestrator.node.priority import run_as_usual, run_when_idle
from orchestrator.node.processes import members_of_session, send
from orchestrator.node.worker_process import WorkerProcess, start_process

MAX_DEATHS = 3
"""Of processes that stand by for one place, from one attempt to the next, within DEATHS_COUNT_FOR_S: then none does."""
DEATHS_COUNT_FOR_S = 3600.0
"""So that a spare, where no attempt begins for weeks, is not without one for ever."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Standby:
    spec: ProcessSpec
    process: WorkerProcess
    is_ready: bool = False
    """It has imported everything."""


class Standbys:
    """One for each place on the node at most. All that it does happens in calls of its owner, which serves the selector, on one thread:
    see `WorkerGroup`.

    What they print stays in their pipes, for the log of the worker that each becomes.
    """

    def __init__(self, selector: selectors.BaseSelector, clock: AttendedClock) -> None:
        self._selector = selector
        self._clock = clock
        self._waiting: dict[int, Standby] = {}
        """By local rank."""
        self._leaving: dict[int, WorkerProcess] = {}
        """By pid, those that were killed and are not gone yet."""
        self._deaths: defaultdict[int, deque[float]] = defaultdict(partial(deque[float], maxlen=MAX_DEATHS))
        """By local rank, when those ended that nobody wanted to end."""

    @property
    def sessions(self) -> Collection[int]:
        """Of their processes."""
        return {standby.process.pid for standby in self._waiting.values()}

    @property
    def num_ready(self) -> int:
        return sum(standby.is_ready for standby in self._waiting.values())

    @property
    def is_gone(self) -> bool:
        """No process is left."""
        return not self._waiting and not self._leaving

    def prepare(self, local_rank: int, spec: ProcessSpec) -> None:
        """Starts one, where none like it stands by there. What can't be started is no loss: the next attempt starts its own."""
        known = self._waiting.get(local_rank)
        if (known is not None and known.spec == spec) or self._die_there(local_rank):
            return
        self._dismiss(local_rank)
        try:
            process = start_process(spec)
        except OSError as error:
            self._note_death(local_rank, str(error))
            return
        run_when_idle(process.pid)
        self._waiting[local_rank] = Standby(spec, process)
        for fd, handler in ((process.report_fd, self._listen), (process.pid_fd, self._bury)):
            self._selector.register(fd, selectors.EVENT_READ, partial(handler, local_rank, process))

    def start(self, local_rank: int, spec: ProcessSpec) -> WorkerProcess:
        """The one that stands by there, or a new one, which is its caller's from now on. Raises OSError.

        One that is not ready is taken too: it is no later than one that starts now.
        """
        process = self._take(local_rank, spec) or start_process(spec)
        run_as_usual(process.pid)
        return process

    def begin_anew(self) -> None:
        """Another attempt begins: deaths are counted from here."""
        self._deaths.clear()

    def dismiss_all(self) -> None:
        """To be called again and again until `is_gone`."""
        for local_rank in list(self._waiting):
            self._dismiss(local_rank)
        for process in list(self._leaving.values()):
            self._reap(process)

    def _take(self, local_rank: int, spec: ProcessSpec) -> WorkerProcess | None:
        """None where none stands by there that is like `spec` and can run."""
        known = self._waiting.get(local_rank)
        if known is None or known.spec != spec or not _can_run(known.process):
            self._dismiss(local_rank)
            return None
        del self._waiting[local_rank]
        self._unregister(known.process)
        return known.process

    # --- what comes from them ------------------------------------------------------------------------------------------

    def _listen(self, local_rank: int, process: WorkerProcess) -> None:
        standby = self._waiting.get(local_rank)
        if standby is None or standby.process is not process:
            return
        try:
            lines = process.read_lines()
        except BlockingIOError:
            return
        if lines is None:
            self._selector.unregister(process.report_fd)
        for line in lines or ():
            self._hear(local_rank, standby, line)

    def _hear(self, local_rank: int, standby: Standby, line: bytes) -> None:
        """One that was told to leave is of no use: as a worker it would make the run leave this node."""
        try:
            message = decode(line)
        except DecodeError as error:
            log.warning("process %d, which stands by: %s", standby.process.pid, error)
            return
        standby.is_ready |= isinstance(message, Ready)
        if isinstance(message, Beat) and message.told_to_leave and self._waiting.get(local_rank) is standby:
            self._dismiss(local_rank)
            self._note_death(local_rank, "told to leave")

    def _bury(self, local_rank: int, process: WorkerProcess) -> None:
        standby = self._waiting.get(local_rank)
        if standby is None or standby.process is not process or not process.has_ended():
            return
        last_words = process.last_words()
        self._dismiss(local_rank)
        self._note_death(local_rank, last_words or "without a word")

    def _note_death(self, local_rank: int, why: str) -> None:
        self._deaths[local_rank].append(self._clock.now())
        then = (
            f"none follows for {DEATHS_COUNT_FOR_S:.0f} s; an attempt starts its own"
            if self._die_there(local_rank)
            else "another one follows"
        )
        log.warning("who stood by for local rank %d has ended: %s; %s", local_rank, why, then)

    def _die_there(self, local_rank: int) -> bool:
        """One after the other: another one would, too."""
        deaths = self._deaths[local_rank]
        return len(deaths) == MAX_DEATHS and self._clock.now() - deaths[0] < DEATHS_COUNT_FOR_S

    # --- their end -----------------------------------------------------------------------------------------------------

    def _dismiss(self, local_rank: int) -> None:
        standby = self._waiting.pop(local_rank, None)
        if standby is None:
            return
        process = standby.process
        self._unregister(process)
        self._leaving[process.pid] = process
        self._selector.register(process.pid_fd, selectors.EVENT_READ, partial(self._reap, process))
        for pid in members_of_session(process.pid):
            send(pid, signal.SIGKILL)
        self._reap(process)

    def _reap(self, process: WorkerProcess) -> None:
        if process.pid in self._leaving and process.has_ended():
            del self._leaving[process.pid]
            self._selector.unregister(process.pid_fd)
            process.reap()

    def _unregister(self, process: WorkerProcess) -> None:
        watched = self._selector.get_map()
        for fd in (process.report_fd, process.pid_fd):
            if fd in watched:
                self._selector.unregister(fd)


def _can_run(process: WorkerProcess) -> bool:
    """It is alive, is not ending (which may take the kernel seconds), and is not stopped."""
    return not process.has_ended() and process.ending_status() is None and not process.is_stopped()
