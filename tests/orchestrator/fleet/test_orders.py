"""What each agent is told for a desired state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config import SnapshotConfig
from orchestrator.control.desired import Desired
from orchestrator.fleet.orders import buddy_of, choose_rendezvous, orders_of
from orchestrator.messages import AgentReport, MirrorPlace, Mode, Rendezvous
from orchestrator.node.orders import AgentOrder
from tests.orchestrator.fleet.stories import A, B, C, run_config, wanted

PLACE, OTHER_PLACE = Rendezvous(address="a", port=1), Rendezvous(address="b", port=2)


def test_workers_start_only_once_it_is_known_where_they_meet():
    assert orders_of(wanted(1, A, B), None, run_config()) == {}

    orders = orders_of(wanted(1, A, B), PLACE, run_config())

    spawns = [orders[node].spawn for node in (A, B)]
    assert [(spawn.first_rank, spawn.num_workers, spawn.world_size, spawn.rendezvous) for spawn in spawns if spawn] == [
        (0, 2, 4, PLACE),
        (2, 2, 4, PLACE),
    ]


def test_a_node_that_is_held_without_a_part_in_the_attempt_has_no_workers():
    orders = orders_of(replace(wanted(3, A, B), held=(A, B, C)), PLACE, run_config())

    assert orders[C] == AgentOrder(attempt=3, mode=Mode.KILL)
    assert orders[A].mode is Mode.RUN


def test_what_hangs_is_asked_where_it_stands_before_it_is_killed():
    desired = replace(wanted(2, A, mode=Mode.KILL), wants_evidence=True)

    assert orders_of(desired, None, run_config()) == {A: AgentOrder(attempt=2, mode=Mode.KILL, wants_evidence=True)}


def test_a_run_that_never_had_an_attempt_tells_nobody_anything():
    assert orders_of(Desired(held=(A,)), None, run_config()) == {}


def test_workers_meet_where_the_first_node_offers():
    reports = {A: AgentReport(node=A, offer=PLACE), B: AgentReport(node=B, offer=OTHER_PLACE)}

    assert choose_rendezvous(1, (A, B), reports) == PLACE
    assert choose_rendezvous(1, (A, B), {B: reports[B]}) is None


def test_where_some_workers_wait_already_the_others_go():
    """And not to where an older attempt met."""
    reports = {A: AgentReport(node=A, attempt=1, offer=PLACE), B: AgentReport(node=B, attempt=2, rendezvous=OTHER_PLACE)}

    assert choose_rendezvous(2, (A, B), reports) == OTHER_PLACE
    assert choose_rendezvous(3, (A, B), reports) == PLACE


# --- copies of snapshots --------------------------------------------------------------------------------------------------


def mirror_of(node: str) -> MirrorPlace:
    return MirrorPlace(address=node, port=1, token="")


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 7, 128])
def test_every_node_is_one_others_buddy_and_never_its_neighbours_where_there_are_more(num_nodes: int):
    buddies = [buddy_of(index, num_nodes) for index in range(num_nodes)]

    assert sorted(buddies) == list(range(num_nodes))
    assert all(min((index - buddy) % num_nodes, (buddy - index) % num_nodes) == num_nodes // 2 for index, buddy in enumerate(buddies))


def test_agents_are_told_whose_copies_they_keep_and_where_their_own_are():
    mirrors = {node: mirror_of(node) for node in (A, B, C)}
    desired = replace(wanted(1, A, B, C), world_size=6)

    orders = orders_of(desired, PLACE, run_config(), mirrors=mirrors)

    assert [order.buddy.address if order.buddy else None for order in orders.values()] == [B, C, A]
    assert [order.spawn.mirrored_ranks for order in orders.values() if order.spawn] == [range(4, 6), range(2), range(2, 4)]


def test_workers_start_before_it_is_known_where_copies_are():
    order = orders_of(wanted(1, A, B), PLACE, run_config())[A]

    assert order.spawn is not None
    assert (order.spawn.mirrored_ranks, order.buddy) == (range(2, 4), None)


@pytest.mark.parametrize(
    ("nodes", "snapshot"),
    [((A,), SnapshotConfig()), ((A, B), SnapshotConfig(mirror=False)), ((A, B), SnapshotConfig(enabled=False))],
    ids=["one node", "no mirror", "no snapshots"],
)
def test_nothing_is_copied_where_there_is_no_other_node_or_nobody_wants_it(nodes: tuple[str, ...], snapshot: SnapshotConfig):
    orders = orders_of(
        wanted(1, *nodes), PLACE, replace(run_config(), snapshot=snapshot), mirrors={node: mirror_of(node) for node in nodes}
    )

    assert [(order.buddy, order.spawn and order.spawn.mirrored_ranks) for order in orders.values()] == [(None, range(0))] * len(nodes)
