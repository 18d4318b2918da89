"""RayCluster: the Cluster protocol with one agent actor for each node of an attempt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.config import RunConfig
from orchestrator.control.actions import Action, SaveAndStop, StartWorkers, StopWorkers
from orchestrator.control.cluster import Observation
from orchestrator.control.placement import Node
from orchestrator.deadlines import CLOSE_POLL_S
from orchestrator.node.orders import WORKER_COMMAND, Rendezvous, SpawnOrder
from orchestrator.ray_backend.agent_link import AgentLink, adopt_agent, start_agent
from orchestrator.ray_backend.gpu_slots import GpuSlots
from orchestrator.ray_backend.names import NAMESPACE, agent_name, agent_prefix, attempt_prefix
from orchestrator.ray_backend.node_agent import AgentIdentity

log = logging.getLogger(__name__)


class RayCluster:
    """For one controller's thread, which is connected to Ray; `read_log` may be called from any."""

    def __init__(
        self,
        config: RunConfig,
        *,
        worker_command: tuple[str, ...] = WORKER_COMMAND,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._worker_command = worker_command
        self._wall_clock = wall_clock
        self._clock = clock
        self._epoch = 0
        self._attempt = 0
        self._links: tuple[AgentLink, ...] = ()
        self._starting: tuple[StartWorkers, Any] | None = None
        """The order whose rendezvous is still being chosen, and the reference to it."""
        self._stopping = False
        self._leaving: tuple[AgentLink, ...] = ()
        """Links to agents of other attempts, which are on their way out."""
        self._gpu_slots = GpuSlots(wanted=self._workers_per_node, ask=free_gpus, clock=clock)

    def attach(self, *, epoch: int, attempt: int, nodes: tuple[str, ...]) -> None:
        self._epoch = epoch
        self._attempt = attempt
        run = self._config.name
        self._links = tuple(adopt_agent(agent_name(run, attempt, node), node, epoch=epoch, clock=self._clock) for node in nodes)
        self._end_other_attempts()

    def poll(self, *, timeout_s: float) -> Observation:
        """Raises Superseded when the agents obey a newer controller."""
        self._wait(timeout_s)
        return Observation(
            at_s=self._wall_clock(),
            nodes=self._nodes(),
            attempt=self._attempt,
            reports=tuple(report for link in self._links if (report := link.report()) is not None),
            lost_agents=tuple(link.node for link in self._links if link.lost),
            gone=self._stopping and all(link.gone for link in self._links),
        )

    def execute(self, action: Action) -> None:
        match action:
            case StartWorkers():
                self._start(action)
            case SaveAndStop(attempt=self._attempt):
                for link in self._links:
                    link.save_and_stop()
            case StopWorkers(attempt=self._attempt):
                self._starting = None
                self._stopping = True
                for link in self._links:
                    link.stop()

    def close(self) -> None:
        """Ends every agent of the run, those of forgotten attempts included."""
        self._links, self._leaving = self._adopt(agent_prefix(self._config.name)), ()
        self._starting = None
        for link in self._links:
            link.stop()
        while not all(link.ended for link in self._links):
            self._wait(CLOSE_POLL_S)

    def read_log(self, rank: int, attempt: int, offset: int, limit: int, timeout_s: float) -> tuple[bytes, int] | None:
        """From the worker's node; None when it can't be had there: look in the store."""
        links = self._links
        index = rank // self._workers_per_node
        if attempt != self._attempt or not 0 <= index < len(links):
            return None
        return links[index].read_log(rank, offset, limit, timeout_s)

    # --- starting ------------------------------------------------------------------------------------------------------

    def _start(self, order: StartWorkers) -> None:
        if order.attempt <= self._attempt:
            return
        self._attempt, self._stopping = order.attempt, False
        self._end_other_attempts()
        num_gpus = order.workers_per_node if self._config.resources.device == "cuda" else 0
        self._links = tuple(
            start_agent(self._identity(order.attempt, node), epoch=self._epoch, num_gpus=num_gpus, clock=self._clock)
            for node in order.nodes
        )
        self._starting = order, self._links[0].choose_rendezvous()

    def _end_other_attempts(self) -> None:
        """Begins to: one that a lost controller left behind would hold its GPUs."""
        run = self._config.name
        self._leaving = self._adopt(agent_prefix(run), but=attempt_prefix(run, self._attempt))
        for link in self._leaving:
            link.stop()

    def _spawn(self, order: StartWorkers, rendezvous: Rendezvous) -> None:
        for index, link in enumerate(self._links):
            first_rank = index * order.workers_per_node
            link.spawn(
                SpawnOrder(
                    run=self._config.name,
                    attempt=order.attempt,
                    config_version=order.config_version,
                    storage=self._config.storage,
                    device=self._config.resources.device,
                    world_size=order.world_size,
                    first_rank=first_rank,
                    num_workers=min(order.workers_per_node, order.world_size - first_rank),
                    rendezvous=rendezvous,
                )
            )

    def _identity(self, attempt: int, node: str) -> AgentIdentity:
        return AgentIdentity(
            run=self._config.name, attempt=attempt, node=node, storage=self._config.storage, worker_command=self._worker_command
        )

    @property
    def _workers_per_node(self) -> int:
        return min(self._config.resources.workers_per_node, self._config.parallel.world_size)

    # --- watching ------------------------------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> None:
        """Returns with the first news, or after the timeout."""
        starting = [self._starting[1]] if self._starting else []
        links = (*self._links, *self._leaving)
        pending = starting + [ref for link in links for ref in link.pending()]
        if not pending:
            time.sleep(timeout_s)
            return
        ray.wait(pending, num_returns=1, timeout=timeout_s, fetch_local=False)
        ready = set(ray.wait(pending, num_returns=len(pending), timeout=0, fetch_local=False)[0])
        for link in links:
            link.collect(ready)
        if self._starting and self._starting[1] in ready:
            self._rendezvous_chosen(*self._starting)

    def _rendezvous_chosen(self, order: StartWorkers, chosen: Any) -> None:
        self._starting = None
        try:
            rendezvous = ray.get(chosen)
        except RayError as error:
            self._links[0].fail(f"no rendezvous: {' '.join(str(error).split())}")
            return
        self._spawn(order, rendezvous)

    def _nodes(self) -> tuple[Node, ...]:
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        if self._config.resources.device != "cuda":
            return tuple(Node(node=node, slots=self._config.resources.workers_per_node) for node in alive)
        slots = self._gpu_slots.count(
            held={link.node for link in self._links if not link.gone}, refused={link.node for link in self._links if link.never_started}
        )
        return tuple(Node(node=node, slots=slots(node)) for node in alive)

    def _adopt(self, prefix: str, *, but: str | None = None) -> tuple[AgentLink, ...]:
        """Every agent whose name begins with `prefix`, and not with `but`."""
        actors = ray.util.list_named_actors(all_namespaces=True)
        names = [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefix)]
        return tuple(
            adopt_agent(name, name.rpartition("/")[2], epoch=self._epoch, clock=self._clock)
            for name in names
            if but is None or not name.startswith(but)
        )


def free_gpus() -> Mapping[str, int]:
    """By node: those that no actor of any run holds, as the head knows it, which may be a second old."""
    free = ray._private.state.available_resources_per_node()
    return {node: int(resources.get("GPU", 0)) for node, resources in free.items()}
