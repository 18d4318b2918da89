"""NodeAgent: one Ray actor for each node of a run. It holds the node's GPUs, and the agent that holds its worker processes."""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import threading
import time
from typing import Any

import ray

from orchestrator.attended import AttendedClock
from orchestrator.config import RecoveryConfig
from orchestrator.deadlines import FENCE_LOOK_EVERY_S, GPUS_ASKED_WITHIN_S
from orchestrator.fleet.fence import Fence
from orchestrator.messages import AgentReport
from orchestrator.node.agent import AgentIdentity, Holding, build_agent
from orchestrator.node.home import run_directory
from orchestrator.node.log_file import start_log_file
from orchestrator.node.orders import AgentOrder

CONCURRENCY = {"watch": 4, "command": 4, "query": 4}
log = logging.getLogger(__name__)


class NodeAgent:
    """A shell around `node.agent.Agent`. Every method takes the caller's epoch and refuses a replaced one; reading logs is free to all."""

    def __init__(self, identity: AgentIdentity, recovery: RecoveryConfig, epoch: int) -> None:
        start_log_file(run_directory(identity.run) / f"agent-{identity.node[:8]}.log")
        self._lock = threading.Lock()
        self._clock = AttendedClock(time.monotonic, max_gap_s=2 * FENCE_LOOK_EVERY_S)
        self._fence = Fence(epoch, recovery, clock=self._clock.now)
        if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            log.warning("SIGTERM would end this node at once, and its workers unsaved: start it with `braid cluster node ray start …`")
        self._agent = build_agent(identity, _holding(), recovery)
        threading.Thread(target=self._end_when_nobody_is_left_to_obey, name="fence", daemon=True).start()

    @ray.method(concurrency_group="command")
    def obey(self, epoch: int, order: AgentOrder) -> tuple[int, AgentReport]:
        """Takes the order to heart; the version and report as they stand then."""
        with self._lock:  # until it has the order: none of a replaced controller follows one of its successor
            self._fence.check(epoch)
            self._agent.obey(order)
        return self._agent.report()

    @ray.method(concurrency_group="watch")
    def report(self, epoch: int, seen_version: int, timeout_s: float) -> tuple[int, AgentReport]:
        """The version and report as soon as there is news since `seen_version`, else after the timeout."""
        self._check(epoch)
        self._agent.wait_for_news(seen_version, timeout_s)
        self._check(epoch)
        return self._agent.report()

    @ray.method(concurrency_group="command")
    def leave(self, epoch: int) -> None:
        """Returns when no worker is left and their logs are in the store, or when that takes too long. The agent is of no use then."""
        self._check(epoch)
        self._agent.close()

    @ray.method(concurrency_group="command")
    def step_down(self, epoch: int) -> None:
        """The controller leaves the agent to another; where none speaks within `recovery.orphan_timeout_s`, the agent ends."""
        with self._lock:
            self._fence.step_down(epoch)

    @ray.method(concurrency_group="query")
    def read_log(self, rank: int, offset: int, limit: int) -> tuple[bytes, int]:
        return self._agent.read_log(rank, offset, limit)

    def _check(self, epoch: int) -> None:
        with self._lock:
            self._fence.check(epoch)

    def _end_when_nobody_is_left_to_obey(self) -> None:
        while (why := self._why_to_end()) is None:
            time.sleep(FENCE_LOOK_EVERY_S)
        log.warning("the agent ends: %s", why)
        self._agent.close()
        os._exit(0)

    def _why_to_end(self) -> str | None:
        with self._lock:
            self._clock.look()
            try:
                _, report = self._agent.report()
            except RuntimeError as error:  # its own thread has ended, and its workers with it
                return str(error)
            return self._fence.why_to_end(is_empty=report.is_empty)


@functools.cache
def agent_class() -> Any:
    """The actor class, made once: making it takes Ray five times as long as starting an agent."""
    remote: Any = ray.remote  # whose types know no concurrency groups
    return remote(concurrency_groups=CONCURRENCY)(NodeAgent)


def _holding() -> Holding:
    gpu_ids = tuple(str(gpu) for gpu in ray.get_gpu_ids())
    return Holding(address=ray.util.get_node_ip_address(), gpu_ids=gpu_ids, gpus=uuids_of(gpu_ids) if gpu_ids else ())


def uuids_of(gpu_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Of the GPUs that CUDA_VISIBLE_DEVICES names so; () where nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=GPUS_ASKED_WITHIN_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the GPUs' UUIDs are not known: %s", error)
        return ()
    uuids = dict(line.split(", ", 1) for line in told.splitlines() if ", " in line)
    return tuple(uuids.get(gpu, gpu) for gpu in gpu_ids)
