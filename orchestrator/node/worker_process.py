"""One worker process and the agent's ends of its pipes."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

from orchestrator.messages import Assign, WorkerOrder, encode
from orchestrator.node.orders import ProcessSpec
from orchestrator.node.processes import ending_status, is_stopped

READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20
NO_RANK = -1


class WorkerProcess:
    """Made by `start_process`. No method blocks."""

    def __init__(self, process: subprocess.Popen[bytes], *, order_fd: int, report_fd: int, log_fd: int, pid_fd: int) -> None:
        self.pid = process.pid
        self.rank = NO_RANK
        """Once it has one: see `assign`."""
        self.report_fd = report_fd
        self.log_fd = log_fd
        self.pid_fd = pid_fd
        """Readable when the process has ended."""
        self._process = process
        self._order_fd = order_fd
        self._unread = b""

    def assign(self, order: Assign) -> None:
        """Its first order: it is a rank's worker from now on."""
        self.rank = order.rank
        self.tell(order)

    def tell(self, order: WorkerOrder) -> None:
        """Orders are few and short, so that the pipe holds them all, read or not."""
        with suppress(BrokenPipeError):
            os.write(self._order_fd, encode(order))

    def read_lines(self) -> list[bytes] | None:
        """The whole lines that came down the report pipe; None at its end. Raises BlockingIOError when there is nothing to read for now."""
        data = os.read(self.report_fd, READ_BYTES)
        *lines, self._unread = (self._unread + data).split(b"\n")
        self._unread = self._unread[-MAX_LINE_BYTES:]
        return lines if data else None

    def read_output(self) -> bytes:
        """What it printed; nothing at the end. Raises BlockingIOError when there is nothing to read for now."""
        return os.read(self.log_fd, READ_BYTES)

    def last_words(self) -> str:
        """The last line that it printed and nobody has read; "" for none."""
        with suppress(BlockingIOError):
            lines = self.read_output().decode(errors="replace").split("\n")
            return next((line for line in reversed(lines) if line.strip()), "")
        return ""

    def has_ended(self) -> bool:
        """It stays a zombie until `reap`: until then neither its pid nor its session's number can be taken by another."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ending_status(self) -> int | None:
        """Its exit status once it is ending: see `processes.ending_status`."""
        return ending_status(self.pid)

    def is_stopped(self) -> bool:
        """It does nothing until somebody has it go on: see `processes.is_stopped`."""
        return is_stopped(self.pid)

    def reap(self) -> int:
        """The exit status of the process, which has ended; its descriptors are closed."""
        for fd in (self._order_fd, self.report_fd, self.log_fd, self.pid_fd):
            os.close(fd)
        return self._process.wait()


def start_process(spec: ProcessSpec) -> WorkerProcess:
    """In a session of its own, so that it and its children can be killed together. Its first order says who it is. Raises OSError."""
    spec.directory.mkdir(parents=True, exist_ok=True)
    order_read, order_write = os.pipe()
    report_read, report_write = os.pipe()
    log_read, log_write = os.pipe()
    pipes = {"BRAID_ORDER_FD": str(order_read), "BRAID_REPORT_FD": str(report_write)}
    memory = {"BRAID_MEMORY_FDS": ",".join(map(str, spec.memory_fds))}
    try:
        process = subprocess.Popen(
            spec.command,
            cwd=spec.directory,
            env=spec.environment | pipes | memory,
            stdin=subprocess.DEVNULL,
            stdout=log_write,
            stderr=subprocess.STDOUT,
            pass_fds=(order_read, report_write, *spec.memory_fds),
            start_new_session=True,
        )
    except OSError:
        for fd in (order_write, report_read, log_read):
            os.close(fd)
        raise
    finally:
        for fd in (order_read, report_write, log_write):
            os.close(fd)
    for fd in (order_write, report_read, log_read):
        os.set_blocking(fd, False)
    return WorkerProcess(process, order_fd=order_write, report_fd=report_read, log_fd=log_read, pid_fd=os.pidfd_open(process.pid))
