"""How many places GPUs make, while the run itself comes and goes on them; and how seldom the cluster is asked."""

from __future__ import annotations

from orchestrator.control.placement import Node
from orchestrator.deadlines import NODES_LISTED_EVERY_S
from orchestrator.fleet.simulated import SimulatedFleet, SimulatedTransport
from orchestrator.fleet.slots import GpuSlots, NodeList
from tests.orchestrator.fleet.stories import A, B

RELEASE_TIMEOUT_S = 12.0


class World:
    """A clock, and the GPUs that are free."""

    def __init__(self, **free: int) -> None:
        self.now_s = 0.0
        self.free = free
        self.slots = GpuSlots(wanted=4, release_timeout_s=RELEASE_TIMEOUT_S, clock=lambda: self.now_s)

    def count(self, node: str, *, held: tuple[str, ...] = (), refused: tuple[str, ...] = ()) -> int:
        return self.slots.count(self.free, held=held, refused=refused)(node)


def test_gpus_that_another_run_holds_are_no_places():
    world = World(idle=8, busy=3, full=0)

    assert [world.count(node) for node in ("idle", "busy", "full", "new")] == [4, 3, 0, 0]


def test_a_node_keeps_its_places_while_the_run_comes_and_goes():
    world, seen = World(node=4), []
    story: list[tuple[tuple[str, ...], int]] = [((), 4), (("node",), 4), (("node",), 0), (("node",), 0), ((), 0), ((), 4), ((), 4)]
    for held, free in story:
        world.free = {"node": free}
        seen.append(world.count("node", held=held))
        world.now_s += RELEASE_TIMEOUT_S / 3

    assert seen == [4] * len(story)


def test_gpus_that_do_not_come_back_are_no_places_after_a_while():
    world = World(node=0)
    world.count("node", held=("node",))
    world.now_s += RELEASE_TIMEOUT_S - 1
    assert world.count("node") == 4
    world.now_s += 1

    assert world.count("node") == 0


def test_a_node_where_an_agent_waited_in_vain_is_none_at_once():
    world = World(node=0)
    world.count("node", held=("node",))

    assert world.count("node", refused=("node",)) == 0


def listed(transport: SimulatedTransport, *, counts_gpus: bool) -> NodeList:
    return NodeList(transport, wanted=4, counts_gpus=counts_gpus, gpu_release_timeout_s=RELEASE_TIMEOUT_S, clock=transport.now)


class CountingTransport(SimulatedTransport):
    questions = 0

    def nodes(self):  # type: ignore[no-untyped-def]
        self.questions += 1
        return super().nodes()


def test_the_cluster_is_asked_once_a_second_at_most_and_what_did_not_change_is_the_same_object():
    fleet = SimulatedFleet(num_nodes=2)
    transport = CountingTransport(fleet)
    nodes = listed(transport, counts_gpus=True)

    looks = []
    for _ in range(10):
        looks.append(nodes.nodes(held=(), lost=(), refused=()))
        fleet.let_pass(NODES_LISTED_EVERY_S / 5)

    assert transport.questions == 2
    assert all(look is looks[0] for look in looks)
    assert looks[0] == (Node(node=A, machine="machine-00000", slots=4), Node(node=B, machine="machine-00001", slots=4))


def test_the_cluster_is_asked_at_once_where_an_agent_was_lost():
    """It may have been the node."""
    fleet = SimulatedFleet(num_nodes=2)
    transport = SimulatedTransport(fleet)
    nodes = listed(transport, counts_gpus=True)
    nodes.nodes(held=(A, B), lost=(), refused=())
    fleet.nodes[B].is_listed = False

    assert [node.node for node in nodes.nodes(held=(A, B), lost=(), refused=())] == [A, B]
    assert [node.node for node in nodes.nodes(held=(A,), lost=(B,), refused=())] == [A]


def test_on_the_cpu_every_node_that_is_alive_has_as_many_places_as_asked():
    fleet = SimulatedFleet(num_nodes=2, gpus_per_node=0)
    transport = SimulatedTransport(fleet)
    nodes = listed(transport, counts_gpus=False)
    assert [node.slots for node in nodes.nodes(held=(), lost=(), refused=())] == [4, 4]

    fleet.kill_node(B)
    fleet.let_pass(5.0)

    assert [node.node for node in nodes.nodes(held=(), lost=(), refused=())] == [A]
