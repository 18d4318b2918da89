"""Processes that stand by for a node's next workers: they have imported all that takes seconds, and wait to hear who they are."""

from __future__ import annotations

import logging
import selectors
import signal
from collections.abc import Callable, Collection
from contextlib import suppress

from orchestrator.node.orders import ProcessSpec
from orchestrator.node.processes import members_of_session, send
from orchestrator.node.worker_process import WorkerProcess, start_process

log = logging.getLogger(__name__)


class Standbys:
    """One for each place on the node at most. All that it does happens in calls of its owner, which serves the selector, on one thread:
    see `WorkerGroup`."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: dict[int, tuple[ProcessSpec, WorkerProcess]] = {}
        """By local rank."""

    @property
    def sessions(self) -> Collection[int]:
        """Of their processes."""
        return {process.pid for _, process in self._waiting.values()}

    def prepare(self, local_rank: int, spec: ProcessSpec) -> None:
        """Starts one, where none like it stands by there. What can't be started is no loss: the next attempt starts its own."""
        known = self._waiting.get(local_rank)
        if known is not None and known[0] == spec:
            return
        self.dismiss(local_rank)
        try:
            process = start_process(spec)
        except OSError as error:
            log.warning("no process stands by for local rank %d: %s", local_rank, error)
            return
        self._waiting[local_rank] = spec, process
        for fd, read in ((process.report_fd, process.read_lines), (process.log_fd, process.read_output)):
            self._selector.register(fd, selectors.EVENT_READ, lambda fd=fd, read=read: self._discard(fd, read))

    def take(self, local_rank: int, spec: ProcessSpec) -> WorkerProcess | None:
        """The one that stands by there, which is its caller's from now on; None where there is none that is like `spec` and lives."""
        known = self._waiting.get(local_rank)
        if known is None or known[0] != spec or known[1].has_ended():
            self.dismiss(local_rank)
            return None
        del self._waiting[local_rank]
        self._unregister(known[1])
        return known[1]

    def dismiss(self, local_rank: int) -> None:
        """Ends the one that stands by there, if any. Returns when it is gone; it holds next to nothing that takes time to free."""
        if local_rank not in self._waiting:
            return
        _, process = self._waiting.pop(local_rank)
        self._unregister(process)
        for pid in members_of_session(process.pid):
            send(pid, signal.SIGKILL)
        process.reap()

    def dismiss_all(self) -> None:
        for local_rank in list(self._waiting):
            self.dismiss(local_rank)

    def _discard(self, fd: int, read: Callable[[], object]) -> None:
        """What it says while it stands by is nobody's business, but a full pipe would hold it up."""
        with suppress(BlockingIOError):
            if not read():
                self._selector.unregister(fd)

    def _unregister(self, process: WorkerProcess) -> None:
        for fd in (process.report_fd, process.log_fd):
            with suppress(KeyError):
                self._selector.unregister(fd)
