"""A cluster of any size with a virtual clock: agents and workers that behave like real ones, and faults on demand.

Nothing happens at the same time, and nothing by chance but what the seed says: the same story is told again and again. Time passes while a
controller waits (`SimulatedTransport.wait`), or when a story lets it (`SimulatedFleet.let_pass`).
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import RecoveryConfig
from orchestrator.fleet.names import agent_name
from orchestrator.fleet.simulated_agent import SimulatedAgent
from orchestrator.fleet.simulated_training import Pace, Training
from orchestrator.fleet.transport import AgentGone, AgentUnreachable, ClusterNode, Ref, StaleController
from orchestrator.node.agent import AgentIdentity
from orchestrator.node.orders import SpawnOrder

FIRST_PORT = 20000


@dataclass(kw_only=True, slots=True)
class SimulatedNode:
    """A node of the fleet, as a story may change it."""

    node: str
    machine: str
    is_alive: bool = True
    is_listed: bool = True
    """The cluster takes it for alive."""
    is_paused: bool = False
    """It does nothing and answers nothing, like a virtual machine that stands still."""
    is_full: bool = False
    """Agents that are started there wait for GPUs in vain."""
    answers_late_by_s: float = 0.0
    held: list[Callable[[], None]]
    """What it will do once it is not paused any more."""


class SimulatedFleet:
    """The nodes, and all that lives on them. Controllers reach it through transports of their own."""

    def __init__(
        self,
        *,
        num_nodes: int,
        gpus_per_node: int = 8,
        num_steps: int = 10**9,
        commit_every: int = 10,
        seed: int = 0,
        pace: Pace | None = None,
    ) -> None:
        names = [f"node-{index:05d}" for index in range(num_nodes)]
        self.now_s = 0.0
        self.pace = pace or Pace()
        self.nodes = {name: SimulatedNode(node=name, machine=f"machine-{name[5:]}", held=[]) for name in names}
        self.agents: dict[str, SimulatedAgent] = {}
        """By name."""
        self.spawned: list[tuple[float, str, int]] = []
        """When workers were started, on which node, for which attempt."""
        self.trainings: list[Training] = []
        self.num_steps = num_steps
        self.commit_every = commit_every
        self.gpus_per_node = gpus_per_node
        self._random = random.Random(seed)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    # --- time ----------------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._count), act))

    def on_node(self, node: str, delay_s: float, act: Callable[[], None]) -> None:
        """The same for what a node does: nothing while it is paused, nor once it is dead."""

        def act_if_awake() -> None:
            where = self.nodes[node]
            if where.is_paused:
                where.held.append(act)
            elif where.is_alive:
                act()

        self.after(delay_s, act_if_awake)

    def let_pass(self, duration_s: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """All that is due happens, moment by moment, until something is as the caller wants it."""
        end_s = self.now_s + duration_s
        while not until() and self._due and self._due[0][0] <= end_s:
            self.now_s = self._due[0][0]
            while self._due and self._due[0][0] <= self.now_s:
                heapq.heappop(self._due)[2]()
        if not until():
            self.now_s = end_s

    # --- faults --------------------------------------------------------------------------------------------------------

    def kill_node(self, node: str) -> None:
        """Like a power cut. The cluster notices after a while."""
        self.nodes[node].is_alive = False
        for agent in self.agents_on(node):
            self._lose_peers_of(agent)
        self.after(self.pace.detection_s, lambda: self._notice_the_death_of(node))

    def _notice_the_death_of(self, node: str) -> None:
        self.nodes[node].is_listed = False
        self.kill_agent(node)

    def warn_node(self, node: str, *, grace_s: float) -> None:
        """SIGTERM to every process of it, and SIGKILL after the grace."""
        for agent in self.agents_on(node):
            agent.tell_to_leave()
        self.after(grace_s, lambda: self.kill_node(node))

    def pause_node(self, node: str) -> None:
        self.nodes[node].is_paused = True

    def resume_node(self, node: str) -> None:
        where = self.nodes[node]
        where.is_paused = False
        held, where.held = where.held, []
        for act in held:
            self.on_node(node, 0.0, act)

    def kill_agent(self, node: str) -> None:
        for agent in self.agents_on(node):
            self._lose_peers_of(agent)
            agent.vanish()

    def fail_worker(self, node: str, local_rank: int, error_type: str, text: str) -> None:
        """One worker fails by itself. The others of its attempt lose a peer, a moment later."""
        for agent in self.agents_on(node):
            agent.fail(local_rank, error_type, text)
            self._lose_peers_of(agent)

    def kill_worker(self, node: str, local_rank: int = 0) -> None:
        """SIGKILL to one worker, as the kernel's out-of-memory killer does."""
        for agent in self.agents_on(node):
            agent.kill_worker(local_rank)
            self._lose_peers_of(agent)

    def _lose_peers_of(self, agent: SimulatedAgent) -> None:
        training = agent.training
        if training is None or not agent.group_size:
            return

        def lose() -> None:
            for peer in self.peers(training):
                self.on_node(peer.identity.node, 0.0, lambda peer=peer: peer.fail_all("DistBackendError", "connection closed by peer"))  # type: ignore[misc]

        training.stop(self.now_s)
        self.after(self.pace.peers_notice_s, lose)

    def agents_on(self, node: str) -> list[SimulatedAgent]:
        return [agent for agent in self.agents.values() if agent.identity.node == node]

    # --- for agents ----------------------------------------------------------------------------------------------------

    def training(self, order: SpawnOrder) -> Training:
        """What the workers of the attempt have in common; it goes on from the run's newest checkpoint, or from memory."""
        key = (order.run, order.attempt, order.rendezvous)
        known = next((one for one in self.trainings if (one.run, one.attempt, one.rendezvous) == key), None)
        if known is not None:
            return known
        stored_step = max((one.committed(self.now_s) for one in self.trainings if one.run == order.run), default=0)
        new = Training(
            run=order.run,
            attempt=order.attempt,
            rendezvous=order.rendezvous,
            world_size=order.world_size,
            stored_step=stored_step,
            num_steps=self.num_steps,
            commit_every=self.commit_every,
            step_s=self.pace.step_s,
        )
        self.trainings.append(new)
        return new

    def peers(self, training: Training) -> list[SimulatedAgent]:
        return [agent for agent in self.agents.values() if agent.training is training]

    def by_chance(self, value_s: float) -> float:
        return value_s * self._random.uniform(0.8, 1.2)

    def new_port(self) -> int:
        return FIRST_PORT + next(self._count)

    def forget(self, agent: SimulatedAgent) -> None:
        name = agent_name(agent.identity.run, agent.identity.node)
        if self.agents.get(name) is agent:
            del self.agents[name]


class SimulatedTransport:
    """One controller's way to the agents of a fleet."""

    def __init__(self, fleet: SimulatedFleet) -> None:
        self._fleet = fleet
        self._arrived: list[Ref] = []
        self._answers: dict[Ref, Any] = {}
        self._refs = itertools.count()

    def now(self) -> float:
        return self._fleet.now_s

    def nodes(self) -> tuple[ClusterNode, ...]:
        return tuple(ClusterNode(node=node.node, machine=node.machine, is_alive=node.is_listed) for node in self._fleet.nodes.values())

    def free_gpus(self) -> Mapping[str, int]:
        held = {agent.identity.node: agent.num_gpus for agent in self._fleet.agents.values()}
        return {node: self._fleet.gpus_per_node - held.get(node, 0) for node in self._fleet.nodes}

    def start_agent(self, name: str, identity: AgentIdentity, recovery: RecoveryConfig, *, epoch: int, num_gpus: int) -> SimulatedAgent:
        fleet = self._fleet
        if name not in fleet.agents:
            agent = SimulatedAgent(fleet, identity, recovery, epoch=epoch, num_gpus=num_gpus)
            fleet.agents[name] = agent
            if not fleet.nodes[identity.node].is_full:
                fleet.on_node(identity.node, fleet.pace.agent_start_s, agent.begin)
        return fleet.agents[name]

    def find_agent(self, name: str) -> SimulatedAgent | None:
        return self._fleet.agents.get(name)

    def agent_names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._fleet.agents if name.startswith(prefix))

    def call(self, agent: SimulatedAgent, method: str, *args: Any) -> Ref:
        ref = next(self._refs)
        agent.deliver(method, args, lambda answer: self._answer(ref, agent, answer))
        return ref

    def _answer(self, ref: Ref, agent: SimulatedAgent, answer: Any) -> None:
        def arrive() -> None:
            self._answers[ref] = answer
            self._arrived.append(ref)

        fleet = self._fleet
        fleet.after(fleet.pace.latency_s + fleet.nodes[agent.identity.node].answers_late_by_s, arrive)

    def wait(self, timeout_s: float, limit: int) -> list[Ref]:
        self._fleet.let_pass(max(0.0, timeout_s), until=lambda: bool(self._arrived))
        arrived, self._arrived = self._arrived[:limit], self._arrived[limit:]
        return arrived

    def result(self, ref: Ref) -> Any:
        answer = self._answers.pop(ref)
        if isinstance(answer, AgentGone | AgentUnreachable | StaleController):
            raise answer
        return answer

    def ask(self, agent: SimulatedAgent, method: str, *args: Any, timeout_s: float) -> Any:
        told: list[Any] = []
        agent.deliver(method, args, told.append)
        self._fleet.let_pass(timeout_s, until=lambda: bool(told))
        if not told:
            raise AgentUnreachable(f"no answer within {timeout_s:g} s")
        if isinstance(told[0], AgentGone | StaleController):
            raise told[0]
        return told[0]

    def kill(self, agent: SimulatedAgent) -> None:
        self._fleet.after(self._fleet.pace.latency_s, agent.vanish)
