"""RayCluster by itself: what it makes of agents that are missing, idle, or another's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from orchestrator.control.actions import StartWorkers, StopWorkers
from orchestrator.control.cluster import Observation
from orchestrator.deadlines import AGENT_STARTS_WITHIN_S
from orchestrator.errors import Superseded
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.names import agent_prefix
from orchestrator.ray_backend.ray_cluster import RayCluster
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.ray_backend.fake_runs import FAKE_WORKER, FakeRun, submit

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("cluster")]
NO_SUCH_NODE = "0123456789abcdef" * 3 + "01234567"


@pytest.fixture
def head(home: Path) -> str:
    return local_cluster.local_nodes(home)[0].node


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeRun]:
    run = submit(tmp_path, request.node.name[:60], num_workers=1)
    yield run
    controller_of(run, epoch=99).close()
    assert agents_of(run) == []
    assert run.pids() == []


def controller_of(run: FakeRun, *, epoch: int, attempt: int = 0, nodes: tuple[str, ...] = (), late_s: float = 0.0) -> RayCluster:
    """What a controller of that epoch holds of the cluster. Its clock runs ahead by `late_s` once the agents are started."""
    clock = iter([0.0])
    cluster = RayCluster(run.config, worker_command=FAKE_WORKER, clock=lambda: time.monotonic() + next(clock, late_s))
    cluster.attach(epoch=epoch, attempt=attempt, nodes=nodes)
    return cluster


def start(*nodes: str, attempt: int = 1) -> StartWorkers:
    return StartWorkers(attempt=attempt, nodes=nodes, workers_per_node=1, world_size=len(nodes), config_version=1)


def agents_of(run: FakeRun) -> list[str]:
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in names if name.startswith(agent_prefix(run.name))]


def seen_when(cluster: RayCluster, condition: Callable[[Observation], bool]) -> Observation:
    def look() -> Observation | None:
        seen = cluster.poll(timeout_s=0.2)
        return seen if condition(seen) else None

    return wait_for(look, "the observation")


def is_training(seen: Observation) -> bool:
    return any(worker.step > 0 for report in seen.reports for worker in report.workers)


def test_an_agent_without_workers_is_given_up_by_the_next_controller(run: FakeRun, head: str):
    """The controller before died between starting the agent and telling it what to start."""
    controller_of(run, epoch=1).execute(start(head))

    second = controller_of(run, epoch=2, attempt=1, nodes=(head,))

    assert seen_when(second, lambda seen: bool(seen.lost_agents)).lost_agents == (head,)
    assert agents_of(run) == []


def test_a_controller_whose_agents_obey_a_newer_one_steps_down(run: FakeRun, head: str):
    first = controller_of(run, epoch=1)
    first.execute(start(head))
    seen_when(first, is_training)

    second = controller_of(run, epoch=2, attempt=1, nodes=(head,))
    seen_when(second, is_training)

    with pytest.raises(Superseded, match="controller 1 was replaced by 2"):
        seen_when(first, lambda seen: False)


def test_repeating_an_action_changes_nothing(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    cluster.execute(start(head))
    before = seen_when(cluster, is_training)

    cluster.execute(start(head))
    cluster.execute(StopWorkers(attempt=7))
    after = cluster.poll(timeout_s=0.2)

    assert [worker.pid for worker in after.reports[0].workers] == [worker.pid for worker in before.reports[0].workers]
    cluster.execute(StopWorkers(attempt=1))
    cluster.execute(StopWorkers(attempt=1))
    gone = seen_when(cluster, lambda seen: seen.gone)
    assert [worker.killed_by_agent for worker in gone.reports[0].workers] == [True]
    assert run.pids() == []
    seen_when(cluster, lambda seen: agents_of(run) == [])
    assert run.store.get("logs/a0001/rank-00000.log").startswith(b"rank 0 of attempt 1")


def test_a_node_that_is_not_there_any_more_shows_as_a_lost_agent(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)

    cluster.execute(start(NO_SUCH_NODE, head))
    seen = seen_when(cluster, lambda seen: bool(seen.lost_agents))

    assert seen.lost_agents == (NO_SUCH_NODE,)
    assert NO_SUCH_NODE not in [node.node for node in seen.nodes]
    cluster.execute(StopWorkers(attempt=1))
    seen_when(cluster, lambda seen: seen.gone)


def test_an_agent_that_never_starts_shows_as_lost_in_the_end(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1, late_s=AGENT_STARTS_WITHIN_S + 1)

    cluster.execute(start(head))

    assert cluster.poll(timeout_s=0.0).lost_agents == (head,)


def test_agents_that_an_earlier_attempt_left_behind_are_ended(run: FakeRun, head: str):
    """Their controller was lost with its cluster's head, say, and the run went on elsewhere meanwhile."""
    lost = controller_of(run, epoch=1)
    lost.execute(start(head, attempt=1))
    seen_when(lost, is_training)
    [left_behind] = agents_of(run)

    cluster = controller_of(run, epoch=2, attempt=0)
    cluster.execute(start(head, attempt=2))
    seen_when(cluster, lambda seen: is_training(seen) and left_behind not in agents_of(run))

    assert (len(agents_of(run)), len(run.pids())) == (1, 1)


def test_closing_ends_every_agent_of_the_run(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    cluster.execute(start(head, attempt=1))
    seen_when(cluster, is_training)
    cluster.execute(start(head, attempt=2))

    cluster.close()

    assert agents_of(run) == []
    assert run.pids() == []


def test_on_cuda_a_node_has_as_many_places_as_gpus(run: FakeRun):
    """This machine's nodes were started without any."""
    from dataclasses import replace

    config = replace(run.config, resources=replace(run.config.resources, device="cuda"))

    seen = RayCluster(config).poll(timeout_s=0.0)

    assert [node.slots for node in seen.nodes] == [0] * len(seen.nodes)
