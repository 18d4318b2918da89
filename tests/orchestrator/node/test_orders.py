"""What an agent makes of its orders, and the environment of its workers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from data_pipeline.config import StorageConfig
from orchestrator.identity import RunIdentity
from orchestrator.messages import MirrorPlace, Mode, Rendezvous
from orchestrator.node.orders import AgentOrder, SpawnOrder, assignments, merge, worker_environment

INHERITED = {
    "PATH": "/usr/bin",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "RAY_JOB_ID": "01000000",
    "RAY_AUTH_TOKEN_PATH": "/token",
    "PYTHONBREAKPOINT": "ray.util.rpdb.set_trace",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def spawn(attempt: int, *, port: int = 20001) -> SpawnOrder:
    return SpawnOrder(
        run="first",
        attempt=attempt,
        config_version=1,
        storage=StorageConfig(root="s3://bucket/prefix"),
        world_size=16,
        first_rank=8,
        num_workers=8,
        rendezvous=Rendezvous(address="10.0.0.1", port=port),
    )


def run(attempt: int, *, port: int = 20001) -> AgentOrder:
    return AgentOrder(attempt=attempt, mode=Mode.RUN, spawn=spawn(attempt, port=port))


def kill(attempt: int, *, wants_evidence: bool = False) -> AgentOrder:
    return AgentOrder(attempt=attempt, mode=Mode.KILL, wants_evidence=wants_evidence)


def save(attempt: int) -> AgentOrder:
    return AgentOrder(attempt=attempt, mode=Mode.SAVE)


def after(*orders: AgentOrder) -> AgentOrder:
    """What an agent sees to after these, in this order."""
    known = AgentOrder(attempt=0, mode=Mode.KILL)
    for order in orders:
        known = merge(known, order)
    return known


def test_a_newer_attempt_replaces_all_that_was_known():
    assert after(kill(1, wants_evidence=True), run(2)) == run(2)


def test_an_order_of_an_older_attempt_is_ignored():
    assert after(run(2), kill(1)) == run(2)


def test_the_same_again_changes_nothing():
    assert after(run(2), run(2), save(2), save(2)) == after(run(2), save(2))


def test_who_was_told_to_kill_an_attempt_never_starts_it_afterwards():
    assert after(kill(2), run(2)).mode is Mode.KILL


def test_a_node_that_waits_for_its_rendezvous_learns_later_what_to_start():
    assert after(AgentOrder(attempt=2, mode=Mode.RUN), run(2)) == run(2)


def test_workers_are_named_once():
    assert after(run(2, port=20001), run(2, port=20002)).spawn == spawn(2, port=20001)


def test_where_copies_are_may_come_later_and_is_not_forgotten():
    buddy = MirrorPlace(address="10.0.0.2", port=1, token="")
    told = replace(run(2), buddy=buddy)

    assert after(run(2), told, run(2), save(2)).buddy == buddy
    assert after(told, run(3)).buddy is None


@pytest.mark.parametrize("orders", list(itertools.permutations([run(1), run(2), save(2), kill(2, wants_evidence=True)])))
def test_however_orders_overtake_each_other_the_last_wish_stands(orders: tuple[AgentOrder, ...]):
    assert after(*orders) == AgentOrder(attempt=2, mode=Mode.KILL, spawn=spawn(2), wants_evidence=True)


def test_each_worker_learns_its_place_and_its_run_from_its_first_order():
    first, *_, last = assignments(spawn(2))

    assert (first.rank, first.local_rank, last.rank, last.local_rank) == (8, 0, 15, 7)
    assert (last.world_size, last.local_world_size, last.rendezvous) == (16, 8, Rendezvous(address="10.0.0.1", port=20001))
    assert (last.run, last.attempt, last.config_version, last.storage) == ("first", 2, 1, StorageConfig(root="s3://bucket/prefix"))


def environment(*gpu_ids: str) -> dict[str, str]:
    return worker_environment(INHERITED, run=RunIdentity(name="first", id="5eed"), gpu_ids=gpu_ids, agent_pid=77)


def test_a_worker_is_marked_and_does_not_know_its_rank_yet():
    found = environment()

    assert [found[name] for name in ("BRAID_RUN", "BRAID_RUN_ID", "BRAID_AGENT_PID")] == ["first", "5eed", "77"]
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT"} & set(found)


def test_credentials_pass_and_what_ray_added_does_not():
    found = environment()

    assert found["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert not [name for name in found if name.startswith("RAY_") or name == "PYTHONBREAKPOINT"]


def test_on_the_cpu_each_worker_keeps_to_one_thread_and_on_gpus_it_sees_those_of_its_node():
    assert environment()["OMP_NUM_THREADS"] == "1"
    assert environment()["CUDA_VISIBLE_DEVICES"] == ""
    on_gpus = environment("0", "1", "4", "5")
    assert "OMP_NUM_THREADS" not in on_gpus
    assert on_gpus["CUDA_VISIBLE_DEVICES"] == "0,1,4,5"
