"""RayTransport: agents are Ray actors."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.config import RecoveryConfig
from orchestrator.fleet.transport import AgentGone, AgentUnreachable, ClusterNode, Ref, StaleController
from orchestrator.node.agent import AgentIdentity
from orchestrator.ray_backend.machines import machine_of
from orchestrator.ray_backend.named_actor import find_actor
from orchestrator.ray_backend.names import NAMESPACE
from orchestrator.ray_backend.node_agent import agent_class
from orchestrator.ray_backend.remote_errors import cause_of


class RayTransport:
    """For a process that is connected to Ray.

    Answers come in by a callback from Ray's own threads, so that a wait costs what has arrived, and not what is under way.
    """

    def __init__(self) -> None:
        self._futures: dict[Ref, Future[Any]] = {}
        self._arrived: queue.SimpleQueue[Ref] = queue.SimpleQueue()

    def now(self) -> float:
        return time.monotonic()

    def nodes(self) -> tuple[ClusterNode, ...]:
        return tuple(ClusterNode(node=node["NodeID"], machine=machine_of(node), is_alive=node["Alive"]) for node in ray.nodes())

    def free_gpus(self) -> Mapping[str, int]:
        free = ray._private.state.available_resources_per_node()
        return {node: int(resources.get("GPU", 0)) for node, resources in free.items()}

    def start_agent(self, name: str, identity: AgentIdentity, recovery: RecoveryConfig, *, epoch: int, num_gpus: int) -> Any:
        actor = agent_class().options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=0,
            num_cpus=0,
            num_gpus=num_gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(identity.node, soft=False),
        )
        return actor.remote(identity, recovery, epoch)

    def find_agent(self, name: str) -> Any | None:
        return find_actor(name)

    def agent_names(self, prefix: str) -> list[str]:
        actors = ray.util.list_named_actors(all_namespaces=True)
        return sorted(actor["name"] for actor in actors if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefix))

    def call(self, agent: Any, method: str, *args: Any) -> Ref:
        ref: Any = getattr(agent, method).remote(*args)
        self._futures[ref] = ref.future()
        self._futures[ref].add_done_callback(lambda _: self._arrived.put(ref))
        return ref

    def wait(self, timeout_s: float, limit: int) -> list[Ref]:
        try:
            arrived = [self._arrived.get(timeout=max(0.0, timeout_s))]
        except queue.Empty:
            return []
        while len(arrived) < limit and not self._arrived.empty():
            arrived.append(self._arrived.get())
        return arrived

    def result(self, ref: Ref) -> Any:
        try:
            return self._futures.pop(ref).result()
        except StaleController:
            raise
        except ActorUnavailableError as error:
            raise AgentUnreachable(cause_of(error)) from error
        except RayError as error:
            raise AgentGone(cause_of(error)) from error

    def ask(self, agent: Any, method: str, *args: Any, timeout_s: float) -> Any:
        try:
            return ray.get(getattr(agent, method).remote(*args), timeout=timeout_s)
        except StaleController:
            raise
        except (ActorUnavailableError, GetTimeoutError) as error:
            raise AgentUnreachable(cause_of(error)) from error
        except RayError as error:
            raise AgentGone(cause_of(error)) from error

    def kill(self, agent: Any) -> None:
        ray.kill(agent, no_restart=True)
