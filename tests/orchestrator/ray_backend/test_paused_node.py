"""A node that stands still for so long that it counts as dead, and then goes on where it was. The cluster is its own: it loses a node."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.control.events import ControllerStarted
from orchestrator.control.history import KINDS
from orchestrator.control.state import Ending
from orchestrator.node.processes import look_at, send, tree_of
from orchestrator.ray_backend import client
from orchestrator.ray_backend.controller_actor import controller_class
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.local.cluster import LocalNode
from orchestrator.records.journal import read_journal
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.ray_backend.fake_runs import FAKE_WORKER, FakeRun, submit

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture
def own_home(tmp_path_factory: pytest.TempPathFactory, home: Path, cluster: str) -> Iterator[Path]:
    """Of a cluster that this process is connected to instead of the one that tests share."""
    client.disconnect()
    own = tmp_path_factory.mktemp("own")
    try:
        client.connect(local_cluster.start_local_cluster(own, 3), token_path=local_cluster.token_path(own))
        yield own
        client.disconnect()
    finally:
        local_cluster.stop_local_cluster(own)
        client.connect(cluster, token_path=local_cluster.token_path(home))


def apart_from_workers(home: Path) -> LocalNode:
    """A node, not the head, that a run of one worker is not placed on."""
    nodes = local_cluster.local_nodes(home)
    placed = min(node.node for node in nodes)
    return next(node for node in nodes if not node.is_head and node.node != placed)


def start_controller_on(run: FakeRun, node: LocalNode) -> int:
    """The process id of the run's controller, which goes elsewhere once the node is gone. Ray may have to be asked twice for it."""
    where = NodeAffinitySchedulingStrategy(node.node, soft=True)
    options = client.controller_options(run.identity) | {"scheduling_strategy": where}
    handle = controller_class().options(**options).remote(run.name, run.config.storage, FAKE_WORKER, run.identity.id)
    while (pid := ray.get(handle.ping.remote(), timeout=60)) not in tree_of(node.raylet_pid):
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: controller_pid(run) != pid, "another controller")  # type: ignore[misc]
    return int(pid)


def controller_pid(run: FakeRun) -> int:
    handle = client.find_controller(run.identity, run.config.storage)
    assert handle is not None, "nobody controls the run"
    pid: int = ray.get(handle.ping.remote(), timeout=60)
    return pid


def test_a_controller_that_was_replaced_while_its_node_stood_still_ends_itself_and_not_its_successor(tmp_path: Path, own_home: Path):
    run = submit(tmp_path, "paused", num_workers=1)
    node = apart_from_workers(own_home)
    old = start_controller_on(run, node)
    before = run.wait_for_step(2)
    epoch, frozen = run.state().epoch, tree_of(node.raylet_pid)
    assert old in frozen

    for pid in frozen:
        send(pid, signal.SIGSTOP)
    wait_for(lambda: run.state().epoch == epoch + 1, "the next controller")
    new = controller_pid(run)
    for pid in frozen:
        send(pid, signal.SIGCONT)
    wait_for(lambda: look_at(old) is None, "the end of the first controller")
    after = run.wait_for_step(before["workers"][0]["step"] + 40)

    assert controller_pid(run) == new != old
    assert [worker["pid"] for worker in after["workers"]] == [worker["pid"] for worker in before["workers"]]
    end = run.let_finish()
    assert (end.ending, end.attempt, end.epoch, end.incidents) == (Ending.FINISHED, 1, epoch + 1, ())
    entries = read_journal(run.store, KINDS)
    takeover = [entry for entry in entries if isinstance(entry.event, ControllerStarted)][-1]
    assert {entry.writer for entry in entries[takeover.sequence - 1 :]} == {takeover.writer}
    assert not run.pids()
