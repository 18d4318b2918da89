"""The agent of one node: it starts, watches and ends the workers of a run there, attempt after attempt. No Ray.

Callers only leave an order and look at what has become of it. One thread does everything with processes, and lives as long as the agent.
"""

from __future__ import annotations

import functools
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from data_pipeline.config import StorageConfig
from orchestrator.attended import AttendedClock
from orchestrator.config import RecoveryConfig
from orchestrator.deadlines import (
    AGENT_LOOKS_AT_ORPHANS_EVERY_S,
    AGENT_LOOKS_AT_WORKERS_EVERY_S,
    AGENT_LOOKS_EVERY_S,
    ATTENDED_GAP_S,
)
from orchestrator.identity import RunIdentity
from orchestrator.messages import AgentReport, Mode, Rendezvous
from orchestrator.node.held_port import HeldPort, hold_port
from orchestrator.node.home import home_directory, prune_logs, run_directory
from orchestrator.node.log_uploader import TAIL_BYTES, LogUploader
from orchestrator.node.mirror import build_mirror
from orchestrator.node.mirror_copies import new_files
from orchestrator.node.orders import (
    WORKER_COMMAND,
    AgentOrder,
    ProcessSpec,
    SpawnOrder,
    WorkerSpec,
    assignments,
    merge,
    worker_environment,
)
from orchestrator.node.own_python import code_stamp, own_python
from orchestrator.node.rotated_log import RotatedLog
from orchestrator.node.standbys import Standbys
from orchestrator.node.telemetry import start_telemetry
from orchestrator.node.worker_group import WorkerGroup
from orchestrator.records.keys import log_key

WAKE_BYTES = 1 << 10
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentIdentity:
    """Whose agent it is. A process has one agent of a run at most: what workers start is known by the agent's process id."""

    run: RunIdentity
    node: str
    storage: StorageConfig
    worker_command: tuple[str, ...] = WORKER_COMMAND
    num_standbys: int = 0
    """Processes that stand by for the node's next workers, one for each that it may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What the run holds of the node."""

    address: str
    """Where workers on other nodes reach this one."""
    gpu_ids: tuple[str, ...] = ()
    """GPUs as CUDA_VISIBLE_DEVICES names them."""
    gpus: tuple[str, ...] = ()
    """The same by UUID."""


class Agent:
    """Made by `build_agent`. Every method may be called from any thread, and only `close` waits for a process."""

    def __init__(
        self, identity: AgentIdentity, holding: Holding, recovery: RecoveryConfig, *, uploader: LogUploader, clock: Callable[[], float]
    ) -> None:
        self._identity = identity
        self._holding = holding
        self._recovery = recovery
        self._uploader = uploader
        self._clock = AttendedClock(clock, max_gap_s=ATTENDED_GAP_S)
        self._changed = threading.Condition()
        self._order = AgentOrder(attempt=0, mode=Mode.KILL)
        self._is_closing = False
        self._version = 0
        self._news: tuple[object, ...] = ()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_wake)
        self._offered: HeldPort | None = None
        self._memory: list[tuple[int, ...]] = []
        """By local rank, files of memory in which workers keep snapshots: they outlive attempts, and end with this process."""
        self._code = code_stamp()
        """As of the newest attempt that was started here."""
        self._standbys = Standbys(self._selector, self._clock)
        self._mirror = build_mirror(holding.address)
        self._telemetry = start_telemetry(holding.gpus, home_directory())
        self._group = self._empty_group(0)
        """Of the newest attempt that was started here: there is never more than one, since a new one waits for the end of the old."""
        self.thread = threading.Thread(target=self._serve, name="agent", daemon=True)

    def obey(self, order: AgentOrder) -> None:
        """Takes the order to heart, and returns. Any order may be repeated, or come too late: see `orders.merge`.

        Raises RuntimeError where the agent is of no use any more.
        """
        with self._changed:
            if self._is_closing:
                raise RuntimeError(f"the agent of run {self._identity.run} was told to leave")
            self._check_thread()
            self._order = merge(self._order, order)
            self._tell_news()
        self._wake()

    def report(self) -> tuple[int, AgentReport]:
        """A version, which grows with every piece of news, and the report."""
        with self._changed:
            self._check_thread()
            self._clock.look()
            return self._version, AgentReport(
                node=self._identity.node,
                attempt=self._order.attempt,
                workers=self._group.reports() if self._is_current else (),
                rendezvous=self._rendezvous,
                offer=self._offer,
                is_empty=self._group.is_gone,
                stuck=self._stuck,
                gpus=self._holding.gpus,
                standbys=self._standbys.num_ready,
                mirror=self._mirror.place,
                levels=self._telemetry.newest,
            )

    def wait_for_news(self, seen_version: int, timeout_s: float) -> None:
        """Returns when there is news since `seen_version`, or after the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > seen_version, timeout_s)

    def read_log(self, rank: int, offset: int, limit: int) -> tuple[bytes, int]:
        """Bytes from `offset` on of a log of the reported attempt, and where to go on; nothing while there is no such rank."""
        with self._changed:
            logfile = self._group.logfile(rank) if self._is_current else None
        return logfile.read(offset, limit) if logfile else (b"", offset)

    def close(self) -> None:
        """Ends every process, and returns when that and the upload of their logs is done, or takes too long."""
        with self._changed:
            self._order = AgentOrder(attempt=self._order.attempt, mode=Mode.KILL)
            self._is_closing = True
        self._wake()
        self.thread.join(self._recovery.kill_timeout_s)
        self._uploader.wait(self._recovery.log_upload_timeout_s)

    # --- the one thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not (self._is_closing and self._group.is_gone and self._standbys.is_gone):
                events = self._selector.select(self._patience_s())
                with self._changed:
                    self._clock.look()
                    for key, _ in events:
                        key.data()
                    self._reconcile()
                    self._tell_news()
        except Exception:
            log.exception("the agent's thread ends, and its workers with it")
            raise
        finally:
            self._let_go()

    def _patience_s(self) -> float:
        has_orphans_to_end = not self._group.is_gone and not self._group.runs and not self._stuck
        if has_orphans_to_end:
            return AGENT_LOOKS_AT_ORPHANS_EVERY_S
        return AGENT_LOOKS_AT_WORKERS_EVERY_S if self._group.runs else AGENT_LOOKS_EVERY_S

    def _reconcile(self) -> None:
        """Brings the processes nearer to what is ordered."""
        order = self._order
        self._group.look()
        if self._is_to_end:
            self._group.end(wants_evidence=order.wants_evidence)
        if order.spawn is not None and order.mode is not Mode.KILL and not self._is_current and self._group.is_gone:
            self._spawn(order.spawn)
        if order.mode is Mode.SAVE and self._is_current:
            self._group.stop()
        self._see_to_standbys()
        if self._is_current:
            self._mirror.follow(order.buddy)
        if self._offered is None:
            self._offered = self._hold_port()

    def _spawn(self, order: SpawnOrder) -> None:
        if self._offered is not None and self._offered.rendezvous == order.rendezvous:
            used, self._offered = self._offered, self._hold_port()
            used.release()
        run = self._identity.run
        self._standbys.begin_anew()
        self._telemetry.begin_anew()
        self._code = code_stamp()
        self._mirror.begin(order, [self._memory_of(local_rank) for local_rank in range(order.num_workers)])
        self._group = self._empty_group(order.attempt)
        self._group.start(
            tuple(
                WorkerSpec(
                    process=self._process_of(assign.local_rank),
                    assign=assign,
                    log_path=run_directory(run) / log_key(order.attempt, assign.rank),
                )
                for assign in assignments(order)
            )
        )
        prune_logs(run)

    def _process_of(self, local_rank: int) -> ProcessSpec:
        """The same for each attempt, so that it may stand by before there is one, unless braid's code has changed meanwhile."""
        return ProcessSpec(
            command=self._identity.worker_command,
            environment=self._environment,
            directory=run_directory(self._identity.run),
            memory_fds=self._memory_of(local_rank),
            code=self._code,
        )

    @functools.cached_property
    def _environment(self) -> dict[str, str]:
        """Of every process: made once, since it is asked for at each look."""
        run, gpu_ids = self._identity.run, self._holding.gpu_ids
        return worker_environment(own_python(os.environ), run=run, gpu_ids=gpu_ids, agent_pid=os.getpid())

    def _see_to_standbys(self) -> None:
        """They come while nothing runs here, or once all workers train: while these start, it would take their time."""
        if self._is_closing:
            self._standbys.dismiss_all()
        elif self._group.is_gone or self._group.trains:
            for local_rank in range(self._identity.num_standbys):
                self._standbys.prepare(local_rank, self._process_of(local_rank))

    def _memory_of(self, local_rank: int) -> tuple[int, ...]:
        while len(self._memory) <= local_rank:
            self._memory.append(new_files())
        return self._memory[local_rank]

    def _hold_port(self) -> HeldPort | None:
        try:
            return hold_port(self._holding.address)
        except OSError as error:
            log.error("no rendezvous can be offered: %s", error)
            return None

    def _let_go(self) -> None:
        if self._offered is not None:
            self._offered.release()
        self._standbys.dismiss_all()
        self._mirror.close()
        self._telemetry.close()
        self._selector.close()
        for fd in (self._wake_read, *(fd for files in self._memory for fd in files)):
            os.close(fd)

    # --- under the lock ------------------------------------------------------------------------------------------------

    @property
    def _is_current(self) -> bool:
        """The workers of the newest attempt that is known were started here."""
        return self._group.attempt == self._order.attempt

    @property
    def _is_to_end(self) -> bool:
        """What the group left is to go: it is of an older attempt, or to be killed, or its last worker has ended."""
        return not self._is_current or self._order.mode is Mode.KILL or not self._group.runs

    @property
    def _rendezvous(self) -> Rendezvous | None:
        return self._order.spawn.rendezvous if self._order.spawn else None

    @property
    def _offer(self) -> Rendezvous | None:
        return self._offered.rendezvous if self._offered else None

    @property
    def _stuck(self) -> tuple[int, ...]:
        return self._group.stuck(self._recovery.kill_timeout_s)

    def _tell_news(self) -> None:
        workers = self._group.milestones() if self._is_current else ()
        news = (self._order.attempt, self._rendezvous, self._offer, self._group.is_gone, self._stuck, workers)
        if news != self._news:
            self._news = news
            self._version += 1
            self._changed.notify_all()

    def _empty_group(self, attempt: int) -> WorkerGroup:
        def upload_log(rank: int, logfile: RotatedLog) -> None:
            self._uploader.upload(log_key(attempt, rank), lambda: logfile.tail(TAIL_BYTES))

        return WorkerGroup(
            attempt,
            run=self._identity.run,
            stack_dump_grace_s=self._recovery.stack_dump_grace_s,
            selector=self._selector,
            clock=self._clock,
            standbys=self._standbys,
            on_exit=upload_log,
        )

    def _check_thread(self) -> None:
        """Raises RuntimeError where the agent is of no use any more."""
        if not self._is_closing and not self.thread.is_alive():
            raise RuntimeError(f"the agent of run {self._identity.run} has ended by an error; its log on the node says which")

    def _wake(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError):  # it is awake, or has ended
            os.write(self._wake_write, b"!")

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_read, WAKE_BYTES)


def build_agent(
    identity: AgentIdentity, holding: Holding, recovery: RecoveryConfig, *, clock: Callable[[], float] = time.monotonic
) -> Agent:
    """A running agent."""
    uploader = LogUploader(identity.storage, identity.run.name)
    uploader.start()
    agent = Agent(identity, holding, recovery, uploader=uploader, clock=clock)
    agent.thread.start()
    return agent
