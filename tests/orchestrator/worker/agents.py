"""Agents that are processes of their own, as on nodes of a cluster, and what a controller tells them."""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.control.desired import Desired
from orchestrator.fleet.orders import orders_of
from orchestrator.messages import AgentReport, Mode, Rendezvous, WorkerReport
from orchestrator.node.orders import AgentOrder
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.worker.tiny_run import free_port

STANDING = (sys.executable, "-m", "tests.orchestrator.worker.standing_worker")
AGENT = """
import base64, os, pickle, sys
from data_pipeline.config import StorageConfig
from orchestrator.config import RecoveryConfig
from orchestrator.identity import RunIdentity
from orchestrator.node.agent import AgentIdentity, Holding, build_agent
def copies():
    held = {}
    for rank in (0, 1):
        with agent._mirror._copies.of(rank) as images:
            held[rank] = [image.held().step for image in images]
    return held
node, run, root, command = pickle.loads(base64.b64decode(sys.argv[1]))
identity = AgentIdentity(run=RunIdentity(name=run), node=node, storage=StorageConfig(root=root), worker_command=command)
agent = build_agent(identity, Holding(address="127.0.0.1"), RecoveryConfig())
for line in sys.stdin:
    told = pickle.loads(base64.b64decode(line))
    answer = None
    if told == "report":
        answer = agent.report()[1]
    elif told == "copies":
        answer = copies()
    elif isinstance(told, dict):
        os.environ.update(told)
        agent.__dict__.pop("_environment", None)  # which it makes once
    else:
        agent.obey(told)
    print(base64.b64encode(pickle.dumps(answer)).decode(), flush=True)
"""


class AgentProcess:
    def __init__(self, node: str, config: RunConfig, directory: Path) -> None:
        self.node = node
        arguments = _encoded((node, config.name, config.storage.root, STANDING))
        home = {"BRAID_HOME": str(directory / f"home-{node}"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", AGENT, arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | home)

    def report(self) -> AgentReport:
        report: AgentReport = self._ask("report")
        return report

    def worker(self) -> WorkerReport:
        """The only one."""
        [worker] = wait_for(lambda: self.report().workers, "the worker")
        return worker

    def copies_of(self, rank: int) -> list[int]:
        """Steps of another node's snapshots that are here."""
        held: dict[int, list[int]] = self._ask("copies")
        return held[rank]

    def set(self, **variables: str) -> None:
        """In the environment of the workers that it starts from now on."""
        self._ask(variables)

    def obey(self, order: AgentOrder) -> None:
        self._ask(order)

    def kill(self) -> None:
        """As a node ends that loses power: with all that is on it."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, what: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(_encoded(what) + "\n")
        self.process.stdin.flush()
        return pickle.loads(base64.b64decode(self.process.stdout.readline()))


def _encoded(what: object) -> str:
    return base64.b64encode(pickle.dumps(what)).decode()


@contextmanager
def agents(config: RunConfig, directory: Path, nodes: Sequence[str]) -> Iterator[list[AgentProcess]]:
    with ExitStack() as stack:
        made = [AgentProcess(node, config, directory) for node in nodes]
        for agent in made:
            stack.callback(agent.kill)
        yield made


def begin(config: RunConfig, attempt: int, placed: Sequence[AgentProcess], **variables: str) -> None:
    """An attempt, with one worker on each of these nodes."""
    desired = Desired(
        attempt=attempt,
        mode=Mode.RUN,
        placement=tuple(agent.node for agent in placed),
        workers_per_node=1,
        world_size=len(placed),
        config_version=1,
    )
    mirrors = {agent.node: place for agent in placed if (place := agent.report().mirror) is not None}
    orders = orders_of(desired, Rendezvous(address="127.0.0.1", port=free_port()), config, mirrors=mirrors)
    for agent in placed:
        agent.set(**variables)
        agent.obey(orders[agent.node])
