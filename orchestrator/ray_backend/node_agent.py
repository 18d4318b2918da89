"""NodeAgent: one Ray actor for each node of an attempt. It holds the node's GPUs and its worker processes."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import ray

from data_pipeline.config import StorageConfig
from orchestrator.deadlines import FORSAKEN_AFTER_S, FORSAKEN_LOOK_EVERY_S
from orchestrator.messages import AgentReport, WorkerReport
from orchestrator.node.home import run_directory
from orchestrator.node.log_uploader import TAIL_BYTES, LogUploader
from orchestrator.node.orders import WORKER_COMMAND, Rendezvous, SpawnOrder, WorkerSpec, worker_environment
from orchestrator.node.worker_group import WorkerGroup, start_worker_group
from orchestrator.records.keys import log_key

PORTS = range(20000, 32768)
"""Below the range that Linux takes ports of outgoing connections from, which would be gone before the first worker listens."""
log = logging.getLogger(__name__)


class StaleController(Exception):
    """A newer controller of the run has spoken to this agent; the caller must step down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentIdentity:
    run: str
    attempt: int
    node: str
    storage: StorageConfig
    worker_command: tuple[str, ...] = WORKER_COMMAND


class NodeAgent:
    """Every method takes the caller's epoch, and refuses one older than the newest seen. Reading logs is free to all."""

    def __init__(self, identity: AgentIdentity, epoch: int) -> None:
        start_log_file(run_directory(identity.run) / f"agent-{identity.node[:8]}.log")
        self._identity = identity
        self._epoch = epoch
        self._heard_s = time.monotonic()
        self._uploader = LogUploader(identity.storage, identity.run)
        self._uploader.start()
        self._group: WorkerGroup = start_worker_group(on_exit=self._upload_log)
        threading.Thread(target=self._end_when_forsaken, name="forsaken", daemon=True).start()

    @ray.method(concurrency_group="command")
    def choose_rendezvous(self, epoch: int) -> Rendezvous:
        self._check(epoch)
        address = ray.util.get_node_ip_address()
        return Rendezvous(address=address, port=_free_port(address))

    @ray.method(concurrency_group="command")
    def spawn(self, epoch: int, order: SpawnOrder) -> bool:
        """True: they are being started, once however often it is asked; whatever becomes of them shows in `report`."""
        self._check(epoch)
        gpu_ids = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        self._group.spawn(tuple(self._spec(order, local_rank, gpu_ids) for local_rank in range(order.num_workers)))
        return True

    @ray.method(concurrency_group="watch")
    def report(self, epoch: int, seen_version: int, timeout_s: float) -> tuple[int, AgentReport]:
        """The version and report as soon as there is news since `seen_version`, else after the timeout."""
        self._check(epoch)
        self._group.wait_for_news(seen_version, timeout_s)
        return self._report()

    @ray.method(concurrency_group="command")
    def save_and_stop(self, epoch: int) -> None:
        self._check(epoch)
        self._group.save_and_stop()

    @ray.method(concurrency_group="command")
    def kill(self, epoch: int, timeout_s: float) -> tuple[int, AgentReport]:
        """Returns when no worker is left."""
        self._check(epoch)
        if not self._group.kill(timeout_s):
            log.error("workers survive SIGKILL for %.0f s: stuck in the kernel; this node needs a look, or a reboot", timeout_s)
        return self._report()

    @ray.method(concurrency_group="command")
    def upload_logs(self, epoch: int, timeout_s: float) -> None:
        """Returns when the logs of the workers that ended are in the store, or that takes too long."""
        self._check(epoch)
        self._uploader.wait(timeout_s)

    @ray.method(concurrency_group="query")
    def read_log(self, rank: int, offset: int, limit: int) -> tuple[bytes, int]:
        return self._group.read_log(rank, offset, limit)

    def _check(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise StaleController(f"controller {epoch} was replaced by {self._epoch}")
        self._epoch = epoch
        self._heard_s = time.monotonic()

    def _end_when_forsaken(self) -> None:
        while not is_forsaken(self._group.reports()[1], time.monotonic() - self._heard_s):
            time.sleep(FORSAKEN_LOOK_EVERY_S)
        log.warning("no worker is left and no controller has spoken for %.0f s: giving the GPUs back", FORSAKEN_AFTER_S)
        os._exit(0)

    def _report(self) -> tuple[int, AgentReport]:
        version, workers = self._group.reports()
        return version, AgentReport(attempt=self._identity.attempt, node=self._identity.node, workers=workers)

    def _spec(self, order: SpawnOrder, local_rank: int, gpu_ids: tuple[str, ...]) -> WorkerSpec:
        rank = order.first_rank + local_rank
        return WorkerSpec(
            rank=rank,
            command=self._identity.worker_command,
            environment=worker_environment(os.environ, order, local_rank=local_rank, gpu_ids=gpu_ids, agent_pid=os.getpid()),
            log_path=run_directory(order.run) / log_key(order.attempt, rank),
        )

    def _upload_log(self, rank: int) -> None:
        self._uploader.upload(log_key(self._identity.attempt, rank), lambda: self._group.log_tail(rank, TAIL_BYTES))


def is_forsaken(workers: Iterable[WorkerReport], unheard_s: float) -> bool:
    """True for an agent that nobody will ever ask to end: its controller is gone, for example because the run went on elsewhere."""
    return unheard_s > FORSAKEN_AFTER_S and all(worker.exit_code is not None for worker in workers)


def start_log_file(path: Path) -> None:
    """What this process logs goes to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for room in ("orchestrator", "data_pipeline"):
        logging.getLogger(room).addHandler(handler)
        logging.getLogger(room).setLevel(logging.INFO)


def _free_port(address: str) -> int:
    """Raises OSError where there is none."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"none of 100 ports from {PORTS.start} to {PORTS.stop - 1} on {address} is free")
