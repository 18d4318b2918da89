"""The worker processes of one node: started, listened to, killed and reaped. No Ray.

One thread starts every process and reads every pipe, and lives as long as the agent: a worker asks the kernel to be killed when its parent
ends, and "parent" means the thread that started it.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from orchestrator.codec import DecodeError
from orchestrator.deadlines import PROCESSES_GONE_WITHIN_S
from orchestrator.messages import Failed, WorkerReport, decode
from orchestrator.node.orders import WorkerSpec
from orchestrator.node.processes import members_of_session, send
from orchestrator.node.rotated_log import RotatedLog
from orchestrator.node.tracked import Tracked, aged, exited, heard, is_news, track

EXIT_NOT_STARTED = 127
READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20
log = logging.getLogger(__name__)


class _Worker:
    """One process and the agent's ends of its pipes."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, rank: int, report_fd: int, log_fd: int, pid_fd: int, logfile: RotatedLog
    ) -> None:
        self.process = process
        self.rank = rank
        self.report_fd = report_fd
        self.log_fd = log_fd
        self.pid_fd = pid_fd
        self.logfile = logfile
        self.unread = b""
        self.log_failed = False


class WorkerGroup:
    """Make it with `start_worker_group`. Every method may be called from any thread."""

    def __init__(self, *, on_exit: Callable[[int], None], clock: Callable[[], float]) -> None:
        self._on_exit = on_exit
        self._clock = clock
        self._changed = threading.Condition()
        self._version = 0
        self._tracked: dict[int, Tracked] = {}
        self._workers: dict[int, _Worker] = {}
        self._logs: dict[int, RotatedLog] = {}
        self._orders: deque[WorkerSpec] = deque()
        self._ordered: set[int] = set()
        self._killed = False
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.thread = threading.Thread(target=self._serve, name="workers", daemon=True)

    # --- for the agent -------------------------------------------------------------------------------------------------

    def spawn(self, specs: tuple[WorkerSpec, ...]) -> None:
        """Begins to start them and returns; what can't be started shows as a failed report. Known ranks stay as they are."""
        with self._changed:
            if self._killed:
                return
            new = [spec for spec in specs if spec.rank not in self._ordered]
            self._ordered.update(spec.rank for spec in new)
            self._orders.extend(new)
        self._wake()

    def reports(self) -> tuple[int, tuple[WorkerReport, ...]]:
        """A version that grows with every piece of news, and the reports by rank."""
        with self._changed:
            now_s = self._clock()
            return self._version, tuple(aged(self._tracked[rank], now_s) for rank in sorted(self._tracked))

    def wait_for_news(self, seen_version: int, timeout_s: float) -> None:
        """Returns when there is news since `seen_version`, or after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > seen_version, timeout_s)

    def save_and_stop(self) -> None:
        with self._changed:
            for worker in self._workers.values():
                send(worker.process.pid, signal.SIGTERM)

    def kill(self, timeout_s: float) -> bool:
        """SIGKILL every worker and its session, wait until they are reaped: True when none is left. Nothing starts afterwards."""
        with self._changed:
            for worker in list(self._workers.values()):
                self._reap(worker)  # who ended before this moment did so by itself
            self._killed = True
            self._orders.clear()
            for worker in self._workers.values():
                _kill_session(worker.process.pid)
            return self._changed.wait_for(lambda: not self._workers, timeout_s)

    def read_log(self, rank: int, offset: int, limit: int) -> tuple[bytes, int]:
        """Bytes of the rank's log from `offset` on, and where to go on; nothing while there is no such rank."""
        logfile = self._logs.get(rank)
        return logfile.read(offset, limit) if logfile else (b"", offset)

    def log_tail(self, rank: int, limit: int) -> bytes:
        return self._logs[rank].tail(limit)

    def close(self, timeout_s: float = PROCESSES_GONE_WITHIN_S) -> None:
        """Kills what is left and ends the thread."""
        self.kill(timeout_s)
        with self._changed:
            self._closed = True
        self._wake()
        self.thread.join(timeout_s)

    # --- the one thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        while not self._closed:
            for key, _ in self._selector.select():
                with self._changed:
                    key.data()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, READ_BYTES)
        while self._orders:
            self._start(self._orders.popleft())

    def _start(self, spec: WorkerSpec) -> None:
        try:
            worker = _start_process(spec)
        except OSError as error:
            failed = Failed(error_type="SpawnFailed", text=f"{spec.command[0]}: {error}")
            tracked = heard(track(spec.rank, 0, self._clock()), failed, self._clock())
            self._set(exited(tracked, EXIT_NOT_STARTED, killed_by_agent=False))
            return
        self._workers[spec.rank] = worker
        self._logs[spec.rank] = worker.logfile
        self._set(track(spec.rank, worker.process.pid, self._clock()))
        for fd, handler in ((worker.report_fd, self._read_reports), (worker.log_fd, self._read_log), (worker.pid_fd, self._reap)):
            self._selector.register(fd, selectors.EVENT_READ, lambda handler=handler: self._is_here(worker) and handler(worker))

    def _is_here(self, worker: _Worker) -> bool:
        """False once it is reaped and its descriptors closed: events of theirs may still be under way."""
        return self._workers.get(worker.rank) is worker

    def _read_reports(self, worker: _Worker) -> bool:
        """Takes in reports; False when there is nothing more to read for now."""
        data = _read(worker.report_fd)
        if not data:
            self._unregister_at_end(worker.report_fd, data)
            return False
        *lines, worker.unread = (worker.unread + data).split(b"\n")
        worker.unread = worker.unread[-MAX_LINE_BYTES:]
        for line in lines:
            self._hear(worker, line)
        return True

    def _hear(self, worker: _Worker, line: bytes) -> None:
        try:
            message = decode(line)
        except DecodeError as error:
            log.warning("rank %d: %s", worker.rank, error)
            return
        self._set(heard(self._tracked[worker.rank], message, self._clock()))

    def _read_log(self, worker: _Worker) -> bool:
        data = _read(worker.log_fd)
        if not data:
            self._unregister_at_end(worker.log_fd, data)
            return False
        try:
            worker.logfile.write(data)
        except OSError as error:
            if not worker.log_failed:
                log.warning("rank %d: its log is incomplete from here on: %s", worker.rank, error)
            worker.log_failed = True
        return True

    def _unregister_at_end(self, fd: int, data: bytes | None) -> None:
        if data is not None:
            with suppress(KeyError):
                self._selector.unregister(fd)

    def _reap(self, worker: _Worker) -> None:
        """Where the process has ended: the rest of its session goes too, its last words are read, and its exit is news."""
        if os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        _kill_session(worker.process.pid)  # before it is reaped: until then its session's number can't be taken by another
        while self._read_reports(worker):
            pass
        while self._read_log(worker):
            pass
        exit_code = worker.process.wait()
        for fd in (worker.report_fd, worker.log_fd, worker.pid_fd):
            with suppress(KeyError):
                self._selector.unregister(fd)
            os.close(fd)
        del self._workers[worker.rank]
        killed = self._killed and exit_code == -signal.SIGKILL
        self._set(exited(self._tracked[worker.rank], exit_code, killed_by_agent=killed))
        self._changed.notify_all()
        self._on_exit(worker.rank)

    def _set(self, tracked: Tracked) -> None:
        before = self._tracked.get(tracked.report.rank)
        self._tracked[tracked.report.rank] = tracked
        if before is None or is_news(before.report, tracked.report):
            self._version += 1
            self._changed.notify_all()


def start_worker_group(*, on_exit: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> WorkerGroup:
    """`on_exit` is called with a rank when its process has ended, from the group's thread or from `kill`'s; it must return at once."""
    group = WorkerGroup(on_exit=on_exit, clock=clock)
    group.thread.start()
    return group


def _start_process(spec: WorkerSpec) -> _Worker:
    """Raises OSError. In a session of its own, so that it and its children can be killed together."""
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    report_read, report_write = os.pipe()
    log_read, log_write = os.pipe()
    try:
        process = subprocess.Popen(
            spec.command,
            env=spec.environment | {"BRAID_REPORT_FD": str(report_write)},
            stdin=subprocess.DEVNULL,
            stdout=log_write,
            stderr=subprocess.STDOUT,
            pass_fds=(report_write,),
            start_new_session=True,
        )
    except OSError:
        os.close(report_read)
        os.close(log_read)
        raise
    finally:
        os.close(report_write)
        os.close(log_write)
    _undo_rays_priorities(process.pid)
    os.set_blocking(report_read, False)
    os.set_blocking(log_read, False)
    logfile = RotatedLog(spec.log_path)
    return _Worker(process, rank=spec.rank, report_fd=report_read, log_fd=log_read, pid_fd=os.pidfd_open(process.pid), logfile=logfile)


def _undo_rays_priorities(pid: int) -> None:
    """Ray's actors are nice, and the first choice of the kernel's out-of-memory killer. Without the privilege to undo it, it stays."""
    with suppress(PermissionError, ProcessLookupError, FileNotFoundError):
        if os.getpriority(os.PRIO_PROCESS, pid) > 0:
            os.setpriority(os.PRIO_PROCESS, pid, 0)
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write("0")


def _read(fd: int) -> bytes | None:
    """What is there to read; None when there is nothing for now, empty at the end."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def _kill_session(session: int) -> None:
    for pid in members_of_session(session):
        send(pid, signal.SIGKILL)
