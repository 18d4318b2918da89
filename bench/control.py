"""Times what the controller does at every look, on a simulated fleet: `python -m bench.control`, as JSON with `--json`.

    transition      events a second that `transition` takes
    look            reconcile, poll, events_of and transition, once: the controller's own time, without that of the simulated world and
                    without Ray's for an answer (some 0.3 ms each, of which a node gives one every two seconds)
    status          bytes of what `braid status` asks for, ten times a second at most
    agent start     Ray's time for the order to start one agent; None where no local cluster starts

Times are what a processor spends, so that a busy machine says the same. Nothing is said of the time that agents take to come up: they do so
side by side.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.config import DataConfig, StorageConfig
from model.config import ModelConfig
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from orchestrator.config import ResourcesConfig, RunConfig, TrainConfig
from orchestrator.control import events
from orchestrator.control.cluster import Observation
from orchestrator.control.desired import desired
from orchestrator.control.observe import events_of
from orchestrator.control.state import RunState, Stage, terms_of
from orchestrator.control.status import build_status
from orchestrator.control.transition import transition
from orchestrator.deadlines import POLL_S
from orchestrator.fleet.cluster import AgentCluster, build_agent_cluster
from orchestrator.fleet.simulated import SimulatedFleet, SimulatedTransport
from orchestrator.identity import RunIdentity
from orchestrator.node.agent import AgentIdentity
from orchestrator.ray_backend import client
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.records.nodes import NodeEvent, Standing

WORKERS_PER_NODE = 8
SIZES = (1000, 2048)
"""Nodes."""
LOOKS = 100
NUM_EVENTS = 20_000
NUM_AGENTS = 50
NO_SUCH_NODE = "0123456789abcdef" * 3 + "01234567"


class TimedTransport(SimulatedTransport):
    """Knows how much of the time went into the simulated world."""

    spent_s = 0.0

    def call(self, agent: Any, method: str, *args: Any) -> Any:
        return self._timed(lambda: SimulatedTransport.call(self, agent, method, *args))

    def wait(self, timeout_s: float, limit: int) -> Any:
        return self._timed(lambda: SimulatedTransport.wait(self, timeout_s, limit))

    def _timed(self, act: Callable[[], Any]) -> Any:
        started_s = time.process_time()
        done = act()
        self.spent_s += time.process_time() - started_s
        return done


class EmptyRegistry:
    standings: Mapping[str, Standing]

    def __init__(self) -> None:
        self.standings = {}

    def record(self, events: Iterable[NodeEvent]) -> None:
        """Forgets them."""


class Loop:
    """The controller's loop without a journal."""

    def __init__(self, num_nodes: int) -> None:
        self.config = run_config(num_nodes)
        self.fleet = SimulatedFleet(num_nodes=num_nodes + num_nodes // 50)
        self.transport = TimedTransport(self.fleet)
        self.cluster: AgentCluster = build_agent_cluster(
            self.config, self.transport, registry=EmptyRegistry(), wall_clock=lambda: self.fleet.now_s
        )
        submitted = events.RunSubmitted(at_s=0.0, terms=terms_of(self.config, 1))
        self.state: RunState = transition(transition(RunState(), submitted), events.ControllerStarted(at_s=0.0, epoch=1))
        self.cluster.attach(epoch=1, desired=desired(self.config.name, self.state))
        self.since_s = 0.0
        gc.freeze()  # as a controller does, once it has begun

    def look(self) -> Observation:
        self.cluster.reconcile(desired(self.config.name, self.state))
        seen = self.cluster.poll(timeout_s=POLL_S)
        stage = self.state.stage
        for event in events_of(self.state, seen, in_stage_s=self.fleet.now_s - self.since_s):
            self.state = transition(self.state, event)
        if self.state.stage is not stage:
            self.since_s = self.fleet.now_s
        return seen

    def timed_look_s(self) -> float:
        """The controller's own time."""
        started_s, spent_s = time.process_time(), self.transport.spent_s
        self.look()
        return time.process_time() - started_s - (self.transport.spent_s - spent_s)

    def until(self, stage: Stage) -> list[float]:
        """The seconds of each look on the way."""
        looks_s = [self.timed_look_s()]
        while self.state.stage is not stage:
            looks_s.append(self.timed_look_s())
        return looks_s

    def fail_every_rank(self) -> None:
        for agent in list(self.fleet.agents.values()):
            agent.fail_all("DistBackendError", "connection closed by peer")


def run_config(num_nodes: int) -> RunConfig:
    world_size = num_nodes * WORKERS_PER_NODE
    return RunConfig(
        name="bench",
        model=ModelConfig(vocab_size=64, d_model=8, num_layers=1, num_heads=1, head_dim=8, gdn_key_dim=8, gdn_value_dim=8, ffn_width=8),
        data=DataConfig(seq_len=8),
        storage=StorageConfig(root="nowhere"),
        optimizer=OptimizerConfig(),
        train=TrainConfig(num_steps=10**9, batch_rows=world_size, micro_rows=1),
        parallel=ParallelConfig(dp_shard=world_size),
        resources=ResourcesConfig(workers_per_node=WORKERS_PER_NODE),
    )


def measure_transition(loop: Loop) -> float:
    """Events a second, of a run that trains."""
    state, started_s = loop.state, time.process_time()
    for step in range(1, NUM_EVENTS + 1):
        committed = events.CheckpointCommitted(at_s=0.0, attempt=state.attempt, step=state.committed_step + step)
        state = transition(state, committed)
    return NUM_EVENTS / (time.process_time() - started_s)


def measure_fleet(num_nodes: int) -> dict[str, float]:
    loop = Loop(num_nodes)
    starting_s = loop.until(Stage.RUNNING)
    steady_s = [loop.timed_look_s() for _ in range(LOOKS)]
    status = build_status("bench", loop.config, loop.state, loop.look(), time.time())
    events_per_s = measure_transition(loop)
    loop.fail_every_rank()
    failing_s = loop.until(Stage.WAITING)
    return {
        "nodes": num_nodes,
        "workers": num_nodes * WORKERS_PER_NODE,
        "transition_events_per_s": events_per_s,
        "steady_median_ms": statistics.median(steady_s) * 1e3,
        "steady_longest_ms": max(steady_s) * 1e3,
        "starting_longest_ms": max(starting_s) * 1e3,
        "every_rank_fails_longest_ms": max(failing_s) * 1e3,
        "status_bytes": len(json.dumps(status)),
    }


def measure_agent_start_ms() -> float | None:
    """The orders are for a node that does not exist, so that none is carried out."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        try:
            address = local_cluster.start_local_cluster(home, 1)
            client.connect(address, token_path=local_cluster.token_path(home))
        except (local_cluster.LocalClusterFailed, client.ClusterUnreachable):
            return None
        try:
            return _agent_start_ms(run_config(1))
        finally:
            client.disconnect()
            local_cluster.stop_local_cluster(home)


def _agent_start_ms(config: RunConfig) -> float:
    from orchestrator.ray_backend.ray_transport import RayTransport

    transport, took_s = RayTransport(), []
    identity = AgentIdentity(run=RunIdentity(name=config.name), node=NO_SUCH_NODE, storage=config.storage)
    for index in range(NUM_AGENTS + 1):
        started_s = time.process_time()
        transport.start_agent(f"bench/{index}", identity, config.recovery, epoch=1, num_gpus=0)
        took_s.append(time.process_time() - started_s)
    return statistics.median(took_s[1:]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    as_json = parser.parse_args().json
    figures: dict[str, Any] = {"fleets": [measure_fleet(num_nodes) for num_nodes in SIZES], "agent_start_ms": measure_agent_start_ms()}
    if as_json:
        print(json.dumps(figures))
        return
    for fleet in figures["fleets"]:
        print(f"{fleet['nodes']:,} nodes, {fleet['workers']:,} workers")
        print(f"  transition                 {fleet['transition_events_per_s']:12,.0f} events/s")
        print(f"  look, steady               {fleet['steady_median_ms']:12.1f} ms   longest {fleet['steady_longest_ms']:.1f} ms")
        print(f"  look, starting             {fleet['starting_longest_ms']:12.1f} ms   longest")
        print(f"  look, every rank fails     {fleet['every_rank_fails_longest_ms']:12.1f} ms   longest")
        print(f"  status                     {fleet['status_bytes']:12,} bytes")
    start_ms = figures["agent_start_ms"]
    print(f"order to start an agent      {'no local cluster starts' if start_ms is None else f'{start_ms:12.1f} ms'}")


if __name__ == "__main__":
    main()
