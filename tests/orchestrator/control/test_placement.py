"""Which nodes an attempt gets."""

from collections.abc import Mapping

from orchestrator.control.placement import Node, place

NO_STRIKES: Mapping[str, int] = {}


def known(**slots: int) -> dict[str, Node]:
    return {name: Node(node=name, slots=number) for name, number in slots.items()}


def places(
    free: dict[str, Node],
    *,
    num_nodes: int = 2,
    slots: int = 8,
    strikes: Mapping[str, int] = NO_STRIKES,
    barred: str = "",
    previous: str = "",
) -> str:
    return "".join(place(free, strikes=strikes, barred=barred, num_nodes=num_nodes, slots=slots, previous=tuple(previous)))


def test_placement_prefers_clean_nodes_then_warm_ones():
    free = known(a=8, b=8, c=8, d=8)
    assert places(free) == "ab"
    assert places(free, previous="db") == "db", "ranks stay where they were"
    assert places(free, strikes={"d": 1}, previous="db") == "ba"


def test_placement_takes_a_struck_node_when_it_must_and_a_barred_one_never():
    free = known(a=8, b=8)
    assert places(free, strikes={"a": 99}) == "ab"
    assert places(free, barred="a") == ""


def test_nodes_with_too_few_slots_do_not_count():
    assert places(known(a=8, b=4)) == ""
