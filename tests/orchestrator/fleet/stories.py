"""Runs on a simulated fleet: what is desired of them, and looking until something shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest

from data_pipeline.config import DataConfig, StorageConfig
from model.config import ModelConfig
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from orchestrator.config import RecoveryConfig, ResourcesConfig, RunConfig, TrainConfig
from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.controller import Controller
from orchestrator.control.desired import Desired
from orchestrator.control.events import RunSubmitted
from orchestrator.control.history import new_history, open_history
from orchestrator.control.state import RunState, terms_of
from orchestrator.deadlines import POLL_S
from orchestrator.fleet.cluster import AgentCluster, build_agent_cluster
from orchestrator.fleet.names import agent_name
from orchestrator.fleet.simulated import SimulatedFleet, SimulatedTransport
from orchestrator.fleet.simulated_agent import SimulatedAgent
from orchestrator.identity import RunIdentity
from orchestrator.messages import Mode, Phase
from orchestrator.records.nodes import Finding, GpusSeen, NodeEvent, Standing
from tests.fakes.memory_store import MemoryStore

RUN = "story"
A, B, C, D = (f"node-{index:05d}" for index in range(4))
WORKERS_PER_NODE = 2
TOO_LONG_S = 900.0
CONTROLLER_RESTARTS_S = 2.0


class FakeRegistry:
    """Remembers what was recorded."""

    def __init__(self) -> None:
        self.standings: Mapping[str, Standing] = {}
        self.recorded: list[tuple[NodeEvent, ...]] = []

    def record(self, events: Iterable[NodeEvent]) -> None:
        self.recorded.append(tuple(events))

    def findings(self) -> list[Finding]:
        return [event for events in self.recorded for event in events if isinstance(event, Finding)]

    def gpus(self) -> list[tuple[str, tuple[str, ...]]]:
        """Each machine whose GPUs were told, as often as they were."""
        return [(event.machine, event.gpus) for events in self.recorded for event in events if isinstance(event, GpusSeen)]


def run_config(*, num_nodes: int = 2, workers_per_node: int = WORKERS_PER_NODE, **recovery: float) -> RunConfig:
    world_size = num_nodes * workers_per_node
    return RunConfig(
        name=RUN,
        model=ModelConfig(vocab_size=64, d_model=8, num_layers=1, num_heads=1, head_dim=8, gdn_key_dim=8, gdn_value_dim=8, ffn_width=8),
        data=DataConfig(seq_len=8),
        storage=StorageConfig(root="memory"),
        optimizer=OptimizerConfig(),
        train=TrainConfig(num_steps=10**9, batch_rows=world_size, micro_rows=1),
        parallel=ParallelConfig(dp_shard=world_size),
        recovery=RecoveryConfig(**recovery),
        resources=ResourcesConfig(workers_per_node=workers_per_node),
    )


def wanted(attempt: int, *nodes: str, mode: Mode = Mode.RUN, may_start: bool = True) -> Desired:
    """The attempt on these nodes."""
    return Desired(
        held=nodes,
        attempt=attempt,
        mode=mode,
        placement=nodes,
        workers_per_node=WORKERS_PER_NODE,
        world_size=WORKERS_PER_NODE * len(nodes),
        config_version=1,
        may_start=may_start,
    )


class Watch:
    """A controller's end of the fleet, which looks again and again."""

    def __init__(
        self,
        fleet: SimulatedFleet,
        *,
        epoch: int = 1,
        desired: Desired | None = None,
        config: RunConfig | None = None,
        transport: SimulatedTransport | None = None,
        run_id: str = "",
    ) -> None:
        self.fleet = fleet
        self.registry = FakeRegistry()
        self.cluster: AgentCluster = build_agent_cluster(
            config or run_config(),
            transport or SimulatedTransport(fleet),
            registry=self.registry,
            run_id=run_id,
            wall_clock=lambda: fleet.now_s,
        )
        self.desired = desired or Desired()
        self.cluster.attach(epoch=epoch, desired=self.desired)

    def want(self, desired: Desired) -> Watch:
        self.desired = desired
        return self

    def want_mode(self, mode: Mode) -> Watch:
        return self.want(replace(self.desired, mode=mode, may_start=False))

    def look(self) -> Observation:
        self.cluster.reconcile(self.desired)
        return self.cluster.poll(timeout_s=POLL_S)

    def until(self, condition: Callable[[Observation], bool], *, within_s: float = 60.0) -> Observation:
        """The observation that meets the condition, in virtual time."""
        deadline_s = self.fleet.now_s + within_s
        while not condition(seen := self.look()):
            assert self.fleet.now_s < deadline_s, f"waited {within_s:g} s in vain; seen: {seen.agents}"
        return seen

    def watch_for(self, duration_s: float) -> Observation:
        deadline_s = self.fleet.now_s + duration_s
        while self.fleet.now_s < deadline_s:
            seen = self.look()
        return seen

    def until_trains(self) -> Observation:
        return self.until(self.trains)

    def trains(self, seen: Observation) -> bool:
        """Every worker of the desired attempt has made a step since it was started."""
        ours = [agent for agent in seen.agents_of(self.desired.attempt) if agent.summary is not None]
        workers = [worker for agent in ours if agent.report is not None for worker in agent.report.workers]
        is_whole = len(workers) == self.desired.world_size
        return is_whole and all(worker.phase is Phase.TRAINING and worker.exit_code is None for worker in workers)


def agent_on(fleet: SimulatedFleet, node: str) -> SimulatedAgent | None:
    return fleet.agents.get(agent_name(RunIdentity(name=RUN), node))


def seen_on(seen: Observation, node: str) -> AgentSeen:
    [agent] = [agent for agent in seen.agents if agent.node == node]
    return agent


def is_gone(agent: AgentSeen, attempt: int) -> bool:
    """As a controller judges it."""
    is_empty = agent.report is not None and agent.report.attempt >= attempt and agent.report.is_empty
    return agent.is_lost or agent.is_given_up or is_empty


def all_gone(attempt: int) -> Callable[[Observation], bool]:
    return lambda seen: bool(seen.agents) and all(is_gone(agent, attempt) for agent in seen.agents)


class ControllerDied(Exception):
    """The process of a controller is gone, at this very moment."""


def played(
    fleet: SimulatedFleet,
    *faults: tuple[float, Callable[[], None]],
    config: RunConfig | None = None,
    transport: SimulatedTransport | None = None,
    store: MemoryStore | None = None,
) -> RunState:
    """The end of a run in which things break at these moments, in seconds. A controller that dies is followed by another, as by Ray's."""
    config = config or run_config()
    store = store or MemoryStore()
    new_history(store).append(RunSubmitted(at_s=0.0, terms=terms_of(config, 1)))
    for at_s, fault in (*faults, (TOO_LONG_S, lambda: pytest.fail(f"the run has not ended within {TOO_LONG_S:g} s"))):
        fleet.after(at_s, fault)
    while True:
        try:
            end = controller_of(fleet, store, config, transport).run()
        except ControllerDied:
            transport = None
            fleet.let_pass(CONTROLLER_RESTARTS_S)
            continue
        assert fleet.agents == {}
        return end


def controller_of(
    fleet: SimulatedFleet, store: MemoryStore, config: RunConfig | None = None, transport: SimulatedTransport | None = None
) -> Controller:
    """One more controller of the run, in a process of its own."""
    transport = transport or SimulatedTransport(fleet)
    cluster = build_agent_cluster(config or run_config(), transport, registry=FakeRegistry(), wall_clock=lambda: fleet.now_s)
    return Controller(
        run=RUN,
        history=open_history(store),
        cluster=cluster,
        wall_clock=lambda: fleet.now_s,
        clock=transport.now,
        sleep=fleet.let_pass,
    )


def nodes_of(state: RunState) -> list[str]:
    return [placed.node for placed in state.placement]
