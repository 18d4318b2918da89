"""The worker processes of one attempt on one node: started, listened to, killed and reaped. No Ray, and no thread of its own."""

from __future__ import annotations

import logging
import os
import selectors
import signal
from collections.abc import Callable
from contextlib import suppress

from orchestrator.attended import AttendedClock
from orchestrator.codec import DecodeError
from orchestrator.identity import RunIdentity
from orchestrator.messages import Failed, Phase, Stop, WorkerReport, decode
from orchestrator.node.orders import WorkerSpec
from orchestrator.node.processes import members_of_session, processes, send, variables_of
from orchestrator.node.rotated_log import RotatedLog
from orchestrator.node.standbys import Standbys
from orchestrator.node.tracked import Tracked, aged, exited, heard, milestones, stopped, track
from orchestrator.node.worker_process import WorkerProcess

EXIT_NOT_STARTED = 127
LAST_READS = 16
"""More than a pipe holds, so that what a process leaves behind can't keep its agent reading."""
log = logging.getLogger(__name__)


class WorkerGroup:
    """All that it does happens in calls of its owner, which serves the selector.

    The thread that calls `start` must live as long as the workers: a worker asks the kernel to be killed when its parent ends, and "parent"
    means the thread that started it.
    """

    def __init__(
        self,
        attempt: int,
        *,
        run: RunIdentity,
        stack_dump_grace_s: float,
        selector: selectors.BaseSelector,
        clock: AttendedClock,
        standbys: Standbys,
        on_exit: Callable[[int, RotatedLog], None],
    ) -> None:
        self.attempt = attempt
        self.is_gone = False
        """No process is left, and none of an agent of the run that died; True only once `end` has found it so."""
        self._run = run
        self._stack_dump_grace_s = stack_dump_grace_s
        self._selector = selector
        self._clock = clock
        self._standbys = standbys
        self._on_exit = on_exit
        self._tracked: dict[int, Tracked] = {}
        self._workers: dict[int, WorkerProcess] = {}
        self._logs: dict[int, RotatedLog] = {}
        self._unlogged: set[int] = set()
        self._is_stopping = False
        self._kill_at_s: float | None = None
        self._killed_s: float | None = None
        self._left: list[int] = []

    @property
    def runs(self) -> bool:
        """A worker is still there."""
        return bool(self._workers)

    @property
    def trains(self) -> bool:
        """Every worker has finished a step, and none has ended."""
        reports = [one.report for one in self._tracked.values()]
        return bool(reports) and all(report.phase is Phase.TRAINING and report.exit_code is None for report in reports)

    def start(self, specs: tuple[WorkerSpec, ...]) -> None:
        """What can't be started shows as a failed report."""
        for spec in specs:
            self._start(spec)

    def look(self) -> None:
        """Takes note of workers that are stopped, or ending; their exit is news long before the kernel is done with their memory."""
        for worker in self._workers.values():
            tracked = self._tracked[worker.rank]
            if tracked.report.exit_code is not None:
                continue
            if (status := worker.ending_status()) is not None:
                self._read_last_words(worker)
                self._note_exit(worker, status)
            elif worker.is_stopped() != tracked.report.is_stopped:
                self._tracked[worker.rank] = stopped(tracked, is_stopped=not tracked.report.is_stopped)

    def stop(self) -> None:
        """Tells every worker, once, to checkpoint and end."""
        if not self._is_stopping:
            for worker in self._workers.values():
                worker.tell(Stop())
        self._is_stopping = True

    def end(self, *, wants_evidence: bool) -> None:
        """Brings everything nearer to its end; to be called again and again until `is_gone`.

        With evidence, workers get `stack_dump_grace_s` to write down where they stand before SIGKILL.
        """
        if self.is_gone:
            return
        for worker in list(self._workers.values()):
            self._reap(worker)
        self.look()
        if self._kill_at_s is None:  # who ended before this moment did so by itself
            self._kill_at_s = self._clock.now() + (self._stack_dump_grace_s if wants_evidence else 0.0)
            if wants_evidence:
                self._signal_workers(signal.SIGUSR1)
        if self._workers and self._clock.now() < self._kill_at_s:
            return
        self._killed_s = self._clock.now() if self._killed_s is None else self._killed_s
        self._left = self._members()
        for pid in self._left:
            send(pid, signal.SIGKILL)
        self.is_gone = not self._left

    def stuck(self, kill_timeout_s: float) -> tuple[int, ...]:
        """Process ids that were there at the last call of `end`, `kill_timeout_s` after the first SIGKILL."""
        is_late = self._killed_s is not None and self._clock.now() > self._killed_s + kill_timeout_s
        return tuple(self._left) if is_late else ()

    def reports(self) -> tuple[WorkerReport, ...]:
        """By rank, their ages as of the clock's last look."""
        return tuple(aged(self._tracked[rank], self._clock.now()) for rank in sorted(self._tracked))

    def milestones(self) -> tuple[object, ...]:
        """What changes when there is news of a worker."""
        return tuple(milestones(tracked.report) for tracked in self._tracked.values())

    def logfile(self, rank: int) -> RotatedLog | None:
        """None for a rank that was not started here."""
        return self._logs.get(rank)

    # --- what comes from the processes ---------------------------------------------------------------------------------

    def _start(self, spec: WorkerSpec) -> None:
        rank, now_s = spec.assign.rank, self._clock.now()
        try:
            spec.log_path.parent.mkdir(parents=True, exist_ok=True)
            worker = self._standbys.start(spec.assign.local_rank, spec.process)
        except OSError as error:
            failed = Failed(error_type="SpawnFailed", text=f"{spec.process.command[0]}: {error}")
            self._tracked[rank] = exited(heard(track(rank, 0, now_s), failed, now_s), EXIT_NOT_STARTED, killed_by_agent=False)
            return
        worker.assign(spec.assign)
        self._workers[rank] = worker
        self._logs[rank] = RotatedLog(spec.log_path)
        self._tracked[rank] = track(rank, worker.pid, now_s)
        for fd, handler in ((worker.report_fd, self._read_reports), (worker.log_fd, self._read_log), (worker.pid_fd, self._reap)):
            self._selector.register(fd, selectors.EVENT_READ, lambda handler=handler: self._is_here(worker) and handler(worker))

    def _is_here(self, worker: WorkerProcess) -> bool:
        """False once it is reaped and its descriptors closed: events of theirs may still be under way."""
        return self._workers.get(worker.rank) is worker

    def _read_reports(self, worker: WorkerProcess) -> bool:
        """Takes in reports; False when there is nothing more to read for now."""
        try:
            lines = worker.read_lines()
        except BlockingIOError:
            return False
        if lines is None:
            self._unregister(worker.report_fd)
            return False
        for line in lines:
            self._hear(worker, line)
        return True

    def _hear(self, worker: WorkerProcess, line: bytes) -> None:
        try:
            message = decode(line)
        except DecodeError as error:
            log.warning("rank %d: %s", worker.rank, error)
            return
        self._tracked[worker.rank] = heard(self._tracked[worker.rank], message, self._clock.now())

    def _read_log(self, worker: WorkerProcess) -> bool:
        """The same for what a worker prints."""
        try:
            data = worker.read_output()
        except BlockingIOError:
            return False
        if not data:
            self._unregister(worker.log_fd)
            return False
        try:
            self._logs[worker.rank].write(data)
        except OSError as error:
            if worker.rank not in self._unlogged:
                log.warning("rank %d: its log is incomplete from here on: %s", worker.rank, error)
            self._unlogged.add(worker.rank)
        return True

    def _unregister(self, fd: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(fd)

    def _reap(self, worker: WorkerProcess) -> None:
        """Where the process has ended: the rest of its session goes too, its last words are read, and its exit is known."""
        if not worker.has_ended():
            return
        for pid in members_of_session(worker.pid):
            send(pid, signal.SIGKILL)
        self._read_last_words(worker)
        for fd in (worker.report_fd, worker.log_fd, worker.pid_fd):
            self._unregister(fd)
        del self._workers[worker.rank]
        self._note_exit(worker, worker.reap())
        self._on_exit(worker.rank, self._logs[worker.rank])

    def _note_exit(self, worker: WorkerProcess, status: int) -> None:
        """Once: who was ending before the group was to end did so by itself, however long it took."""
        if self._tracked[worker.rank].report.exit_code is None:
            was_killed = self._kill_at_s is not None
            self._tracked[worker.rank] = exited(self._tracked[worker.rank], status, killed_by_agent=was_killed)

    def _read_last_words(self, worker: WorkerProcess) -> None:
        for read in (self._read_reports, self._read_log):
            for _ in range(LAST_READS):
                if not read(worker):
                    break

    # --- their end -----------------------------------------------------------------------------------------------------

    def _signal_workers(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            send(worker.pid, number)

    def _members(self) -> list[int]:
        """Every process that is to go: the workers, their sessions, and what bears our mark or that of an agent of the run that died.

        A mark is in the environment that a process was started with, so it finds those too that began a session of their own.
        """
        found = processes()
        alive = {process.pid for process in found}
        leaders = {worker.pid for worker in self._workers.values()}
        waiting = self._standbys.sessions
        followers = {
            process.pid
            for process in found
            if process.session in leaders or (process.session not in waiting and self._is_marked(process.pid, alive))
        }
        return sorted(leaders | followers)

    def _is_marked(self, pid: int, alive: set[int]) -> bool:
        variables = variables_of(pid)
        marked = RunIdentity(name=variables.get("BRAID_RUN", ""), id=variables.get("BRAID_RUN_ID", ""))
        if marked != self._run or pid == os.getpid():
            return False
        agent = variables.get("BRAID_AGENT_PID", "")
        return agent == str(os.getpid()) or (agent.isdecimal() and int(agent) not in alive)
