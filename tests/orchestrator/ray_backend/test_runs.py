"""Runs on a real Ray cluster of three nodes, with fake workers: what breaks, and how the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import ray

from data_pipeline.config import StorageConfig
from orchestrator.control.causes import Cause
from orchestrator.control.controller import Controller
from orchestrator.control.events import ControllerStarted
from orchestrator.control.history import KINDS, open_history
from orchestrator.control.state import Ending
from orchestrator.errors import Superseded
from orchestrator.fleet.cluster import build_agent_cluster
from orchestrator.fleet.names import agent_prefix
from orchestrator.identity import RunIdentity
from orchestrator.node.processes import pids_with_environment
from orchestrator.ray_backend import client
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.ray_transport import RayTransport
from orchestrator.records.journal import read_journal
from orchestrator.records.keys import journal_key
from tests.orchestrator.fleet.stories import FakeRegistry
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.ray_backend.fake_runs import FAKE_WORKER, FakeRun, submit

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("cluster")]


def assert_nothing_is_left_of(run: FakeRun) -> None:
    assert run.pids() == []
    assert RayTransport().agent_names(agent_prefix(run.identity)) == []


def test_a_run_outlives_the_process_that_submitted_it_and_leaves_its_logs_but_no_process(tmp_path: Path, home: Path, cluster: str):
    run = submit(tmp_path, "orphaned", num_steps=5)
    code = (
        "import os, signal, sys; from pathlib import Path; from data_pipeline.config import StorageConfig;"
        "from orchestrator.ray_backend import client; from orchestrator.identity import RunIdentity;"
        "from tests.orchestrator.ray_backend.fake_runs import FAKE_WORKER;"
        "address, token, name, run_id, root = sys.argv[1:]; run = RunIdentity(name=name, id=run_id);"
        "client.connect(address, token_path=Path(token));"
        "client.start_controller(run, StorageConfig(root=root), worker_command=FAKE_WORKER); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, cluster, str(local_cluster.token_path(home)), run.name, run.identity.id, str(tmp_path)]

    submitted = subprocess.run(command, cwd=Path(__file__).parents[3], timeout=60, check=False)

    assert submitted.returncode == -signal.SIGKILL
    end = run.wait_for_end()
    assert (end.ending, end.attempt, end.incidents, end.committed_step) == (Ending.FINISHED, 1, (), 5)
    assert run.store.get("logs/a0001/rank-00001.log").startswith(b"rank 1 of attempt 1 starts after step")
    assert_nothing_is_left_of(run)


def test_a_killed_worker_is_replaced_and_the_run_finishes(tmp_path: Path):
    run = submit(tmp_path, "worker-killed")
    run.start()
    victim = run.wait_for_step(11)["workers"][1]

    os.kill(victim["pid"], signal.SIGKILL)
    run.wait_for_step(1, attempt=2)
    end = run.let_finish()

    [incident] = end.incidents
    assert (incident.cause, incident.rank, incident.node) == (Cause.KILLED, 1, victim["node"])
    assert (end.ending, end.attempt, incident.resumed_from_step % 10) == (Ending.FINISHED, 2, 0)
    assert incident.detected_after_s < 2.0
    assert_nothing_is_left_of(run)


def test_a_frozen_worker_is_named_with_its_rank_and_node(tmp_path: Path):
    run = submit(tmp_path, "frozen", heartbeat_timeout_s=1.5)
    run.start()
    victim = run.wait_for_step(11)["workers"][1]

    os.kill(victim["pid"], signal.SIGSTOP)
    run.wait_for_step(1, attempt=2)
    end = run.let_finish()

    [incident] = end.incidents
    assert (incident.cause, incident.rank, incident.node) == (Cause.FROZEN, 1, victim["node"])
    assert end.ending is Ending.FINISHED
    assert_nothing_is_left_of(run)


def test_a_killed_controller_comes_back_and_finds_its_workers_where_they_were(tmp_path: Path):
    run = submit(tmp_path, "controller-killed")
    handle = run.start()
    before = run.wait_for_step(2)
    old_pid = ray.get(handle.ping.remote())

    os.kill(old_pid, signal.SIGKILL)
    wait_for(lambda: run.state().epoch == 2, "the second controller")
    after = run.wait_for_step(before["workers"][0]["step"] + 1)

    assert ray.get(handle.ping.remote()) != old_pid
    assert [worker["pid"] for worker in after["workers"]] == [worker["pid"] for worker in before["workers"]]
    assert (after["attempt"], after["restarts"], after["incidents"]) == (1, 0, [])
    ray.get(handle.stop.remote(now=True))
    assert run.wait_for_end().ending is Ending.STOPPED
    assert_nothing_is_left_of(run)


def test_of_two_controllers_the_older_one_steps_down_and_the_workers_go_on(tmp_path: Path):
    run = submit(tmp_path, "two-controllers")
    run.start()
    before = run.wait_for_step(2)

    contenders: list[Controller] = []

    def take_over() -> None:
        """Where the first writes an entry in the same moment, it is the second that steps down; then another tries."""
        while True:
            run_id, registry = run.identity.id, FakeRegistry()
            cluster = build_agent_cluster(run.config, RayTransport(), registry=registry, run_id=run_id, worker_command=FAKE_WORKER)
            contenders.append(Controller(run=run.name, history=open_history(run.store), cluster=cluster))
            with suppress(Superseded):
                return contenders[-1].run()

    thread = threading.Thread(target=take_over)
    thread.start()
    wait_for(lambda: client.find_controller(run.identity, run.config.storage) is None, "the first controller to step down")
    pids_after = run.pids()
    run.store.put("finish", b"")
    thread.join(60)

    entries = read_journal(run.store, KINDS)
    writers = [entry.writer for entry in entries if isinstance(entry.event, ControllerStarted)]
    takeover = next(entry.sequence for entry in entries if entry.writer == writers[1])
    assert pids_after == sorted(worker["pid"] for worker in before["workers"])
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    assert {entry.writer for entry in entries[takeover - 1 :]} == {writers[1]}
    view = contenders[-1].view
    assert (view.state.ending, view.state.attempt) == (Ending.FINISHED, 1)
    assert_nothing_is_left_of(run)


def test_a_stopped_run_saves_first_and_can_be_followed_while_it_lives(tmp_path: Path):
    run = submit(tmp_path, "stopped")
    handle = run.start()
    run.wait_for_step(3)

    text, offset = ray.get(handle.read_log.remote(rank=1, attempt=1, offset=0))
    ray.get(handle.stop.remote(now=False))
    end = run.wait_for_end()

    assert text.startswith(b"rank 1 of attempt 1 starts after step")
    assert offset == len(text)
    assert (end.ending, end.incidents) == (Ending.STOPPED, ())
    assert end.reason.startswith("stopped on request at step")
    assert end.committed_step > 0
    assert_nothing_is_left_of(run)


def test_an_error_that_no_restart_can_help_ends_the_run_with_the_reason(tmp_path: Path):
    """One rank's word is not enough: another node must say the same."""
    run = submit(tmp_path, "fails")
    run.store.put("fail-at-5", b"ConfigMismatch")
    run.start()

    end = run.wait_for_end()

    assert end.ending is Ending.FAILED
    assert len({incident.node for incident in end.incidents}) > 1
    assert "ConfigMismatch: asked to fail" in end.reason
    assert_nothing_is_left_of(run)


def test_a_killed_agent_takes_its_workers_along_and_is_replaced(tmp_path: Path):
    run = submit(tmp_path, "agent-killed")
    run.start()
    victim = run.wait_for_step(11)["workers"][0]

    agent_pid = int(Path(f"/proc/{victim['pid']}/stat").read_text().split()[3])
    os.kill(agent_pid, signal.SIGKILL)
    run.wait_for_step(1, attempt=2)
    end = run.let_finish()

    assert [(incident.cause, incident.node) for incident in end.incidents] == [(Cause.AGENT_LOST, victim["node"])]
    assert end.ending is Ending.FINISHED
    assert_nothing_is_left_of(run)


def test_a_killed_node_is_replaced_by_the_spare_and_its_workers_by_who_stands_by_there(tmp_path: Path, home: Path):
    run = submit(tmp_path, "node-killed", standbys=True, spares=1)
    run.start()
    head = local_cluster.local_nodes(home)[0].node
    workers = run.wait_for_step(11)["workers"]
    victim = next(worker for worker in workers if worker["node"] != head)
    stand_by = wait_for(lambda: len(pids := set(run.pids()) - {worker["pid"] for worker in workers}) == 3 and pids, "all that stand by")

    local_cluster.kill_node(home, victim["node"])
    after = run.wait_for_step(1, attempt=2)
    end = run.let_finish()

    assert {worker["pid"] for worker in after["workers"]} < stand_by
    [incident] = end.incidents
    assert (incident.cause, incident.node) == (Cause.NODE_LOST, victim["node"])
    assert incident.detected_after_s < 5.0
    assert (end.ending, end.attempt, len(set(end.placement))) == (Ending.FINISHED, 2, 2)
    assert victim["node"] not in [placed.node for placed in end.placement]
    assert_nothing_is_left_of(run)


def test_runs_of_the_same_name_in_two_stores_live_side_by_side(tmp_path: Path):
    one, other = submit(tmp_path / "one", "same", num_workers=1), submit(tmp_path / "other", "same", num_workers=1)
    one.start()
    one.wait_for_step(2)
    other.start()
    status = other.wait_for_step(2)
    pids = one.pids()
    assert len(pids) == 1
    assert [worker["pid"] for worker in status["workers"]] == other.pids() != pids

    ray.get(client.find_controller(other.identity, other.config.storage).stop.remote(True), timeout=60)

    assert other.wait_for_end().ending is Ending.STOPPED
    assert_nothing_is_left_of(other)
    assert one.pids() == pids
    assert one.let_finish().ending is Ending.FINISHED


def test_a_run_without_an_id_is_not_mistaken_for_one_of_the_same_name_in_another_store(tmp_path: Path):
    """Earlier versions called runs by their names alone."""
    one, other = (submit(tmp_path / root, "nameless", num_workers=1, run_id="") for root in ("one", "other"))
    one.start()
    assert client.find_controller(one.identity, StorageConfig(root=f"{tmp_path}/other/../one/")) is not None
    assert client.find_controller(other.identity, other.config.storage) is None
    with pytest.raises(client.ClusterUnreachable, match=r"this cluster has a run of the same name, of .*/one,"):
        other.start()
    assert one.let_finish().ending is Ending.FINISHED


def test_a_controller_whose_run_was_replaced_by_another_of_its_name_leaves_that_one_alone(tmp_path: Path):
    run, gone = submit(tmp_path, "replaced"), RunIdentity(name="replaced", id="gone")
    with suppress(client.ClusterUnreachable):  # it may have left before it answers
        client.start_controller(gone, run.config.storage, worker_command=FAKE_WORKER)
    wait_for(lambda: client.find_controller(gone, run.config.storage) is None, "its end")
    assert [type(entry.event).__name__ for entry in read_journal(run.store, KINDS)] == ["RunSubmitted"]


def test_a_run_whose_journal_has_a_gap_is_found_by_its_store_and_can_be_stopped_or_ended(tmp_path: Path):
    one, other = submit(tmp_path / "one", "gap", num_workers=1), submit(tmp_path / "other", "gap", num_workers=1)
    for run in (one, other):
        run.start()
        run.wait_for_step(2)
    other_id, one_id = other.identity, one.identity
    one.store.delete(journal_key(2))
    identity, handle = client.find_by_store("gap", StorageConfig(root=f"{tmp_path}/other/../one")) or pytest.fail("not found")
    assert identity == one_id
    assert client.find_by_store("gap", StorageConfig(root=f"{tmp_path}/third")) is None

    assert client.end_actors(one_id, handle) == 1

    wait_for(lambda: pids_with_environment("BRAID_RUN_ID", one_id.id) == [], "the end of its workers")
    assert RayTransport().agent_names(agent_prefix(other_id)) != []
    assert other.let_finish().ending is Ending.FINISHED
