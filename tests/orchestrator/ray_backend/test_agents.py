"""Agents as Ray's actors: what a cluster makes of them, and of those that are missing or another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from orchestrator.control.cluster import Observation
from orchestrator.control.desired import Desired
from orchestrator.errors import Superseded
from orchestrator.fleet.cluster import AgentCluster, build_agent_cluster
from orchestrator.fleet.names import agent_prefix
from orchestrator.fleet.transport import AgentGone
from orchestrator.messages import Mode
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.ray_transport import RayTransport
from tests.orchestrator.fleet.stories import FakeRegistry, is_gone, seen_on
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


def wanted(attempt: int, *nodes: str, mode: Mode = Mode.RUN, may_start: bool = True) -> Desired:
    return Desired(
        held=nodes,
        attempt=attempt,
        mode=mode,
        placement=nodes,
        workers_per_node=1,
        world_size=len(nodes),
        config_version=1,
        may_start=may_start,
    )


def controller_of(run: FakeRun, *, epoch: int, desired: Desired | None = None) -> AgentCluster:
    """What a controller of that epoch holds of the cluster."""
    cluster = build_agent_cluster(run.config, RayTransport(), registry=FakeRegistry(), run_id=run.identity.id, worker_command=FAKE_WORKER)
    cluster.attach(epoch=epoch, desired=desired or Desired())
    return cluster


def agents_of(run: FakeRun) -> list[str]:
    return RayTransport().agent_names(agent_prefix(run.identity))


def seen_when(cluster: AgentCluster, desired: Desired, condition: Callable[[Observation], bool]) -> Observation:
    def look() -> Observation | None:
        cluster.reconcile(desired)
        seen = cluster.poll(timeout_s=0.2)
        return seen if condition(seen) else None

    return wait_for(look, "the observation")


def is_training(seen: Observation) -> bool:
    return any(agent.summary is not None and agent.summary.last_step > 0 for agent in seen.agents)


def pids_in(seen: Observation) -> list[int]:
    return [worker.pid for agent in seen.agents if agent.report for worker in agent.report.workers]


def test_attempts_come_and_go_in_one_agent_and_leave_their_logs(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    seen_when(cluster, wanted(1, head), is_training)
    first = agents_of(run)

    gone = seen_when(cluster, wanted(1, head, mode=Mode.KILL), lambda seen: is_gone(seen_on(seen, head), 1))
    assert run.pids() == []
    assert [worker.killed_by_agent for agent in gone.agents if agent.report for worker in agent.report.workers] == [True]
    seen_when(cluster, wanted(2, head), lambda seen: bool(seen.agents_of(2)) and is_training(seen))

    assert agents_of(run) == first
    assert len(run.pids()) == 1
    wait_for(lambda: run.store.list("logs/a0001/"), "the log of the first attempt")
    assert run.store.get("logs/a0001/rank-00000.log").startswith(b"rank 0 of attempt 1")


def test_a_worker_that_is_told_to_save_ends_with_a_checkpoint(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    seen_when(cluster, wanted(1, head), is_training)

    seen = seen_when(
        cluster, wanted(1, head, mode=Mode.SAVE), lambda seen: any(agent.summary and agent.summary.ended for agent in seen.agents)
    )

    assert [worker.committed_step == worker.step for agent in seen.agents if agent.report for worker in agent.report.workers] == [True]


def test_a_successor_finishes_what_the_controller_before_it_began(run: FakeRun, head: str):
    """It died between starting the agent and telling it what to start."""
    controller_of(run, epoch=1).reconcile(wanted(1, head))

    second = controller_of(run, epoch=2, desired=wanted(1, head))

    assert not seen_on(seen_when(second, wanted(1, head), is_training), head).is_lost
    assert len(agents_of(run)) == 1


def test_a_successor_finds_the_workers_where_they_are_and_the_controller_before_it_steps_down(run: FakeRun, head: str):
    first = controller_of(run, epoch=1)
    before = seen_when(first, wanted(1, head), is_training)

    running = wanted(1, head, may_start=False)
    second = controller_of(run, epoch=2, desired=running)
    after = seen_when(second, running, is_training)

    assert pids_in(after) == pids_in(before)
    with pytest.raises(Superseded, match="controller 1 was replaced by 2"):
        seen_when(first, wanted(1, head, mode=Mode.KILL), lambda seen: False)
    first.step_down()
    assert pids_in(seen_when(second, running, is_training)) == pids_in(before)


def test_a_node_that_is_not_there_any_more_shows_as_a_lost_agent(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)

    seen = seen_when(cluster, wanted(1, NO_SUCH_NODE, head), lambda seen: seen_on(seen, NO_SUCH_NODE).is_lost)

    assert NO_SUCH_NODE not in [node.node for node in seen.nodes]
    assert not seen_on(seen, head).is_lost


def test_a_lost_agent_is_started_anew_under_the_same_name_for_the_next_attempt(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    seen_when(cluster, wanted(1, head), is_training)
    transport = RayTransport()
    [name] = agents_of(run)
    transport.kill(transport.find_agent(name))
    seen_when(cluster, wanted(1, head, may_start=False), lambda seen: seen_on(seen, head).is_lost)

    seen_when(cluster, wanted(2, head), lambda seen: bool(seen.agents_of(2)) and is_training(seen))

    assert agents_of(run) == [name]


def test_an_agent_that_the_run_does_not_hold_any_more_ends(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    seen_when(cluster, wanted(1, head), is_training)

    seen_when(cluster, Desired(attempt=1), lambda seen: seen.agents == ())

    wait_for(lambda: agents_of(run) == [], "the agent's end")
    assert run.pids() == []


def test_agents_whose_controller_stepped_down_end_with_their_workers(tmp_path: Path, head: str):
    run = submit(tmp_path, "orphans", num_workers=1, orphan_timeout_s=1.0)
    cluster = controller_of(run, epoch=1)
    seen_when(cluster, wanted(1, head), is_training)

    cluster.step_down()

    wait_for(lambda: agents_of(run) == [] and run.pids() == [], "the agent's end")


def test_an_agent_that_has_ended_answers_nobody(run: FakeRun, head: str):
    cluster = controller_of(run, epoch=1)
    seen_when(cluster, wanted(1, head), is_training)
    transport = RayTransport()
    agent = transport.find_agent(agents_of(run)[0])
    cluster.close()

    with pytest.raises(AgentGone):
        transport.ask(agent, "read_log", 0, 0, 100, timeout_s=30.0)


def test_on_cuda_a_node_has_as_many_places_as_gpus(run: FakeRun):
    """This machine's nodes were started without any."""
    config = replace(run.config, resources=replace(run.config.resources, device="cuda"))

    seen = build_agent_cluster(config, RayTransport(), registry=FakeRegistry()).poll(timeout_s=0.0)

    assert {node.slots for node in seen.nodes} == {0}
    assert len({node.node for node in seen.nodes}) == len(ray.nodes())
