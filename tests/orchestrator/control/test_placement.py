"""Which nodes an attempt gets."""

from collections.abc import Mapping

from orchestrator.control.placement import Node, Placed, place
from orchestrator.records.nodes import Standing

NO_STRIKES: Mapping[str, int] = {}


def known(**slots: int) -> list[Node]:
    return [Node(node=name, machine=name.upper(), slots=number) for name, number in slots.items()]


def places(
    free: list[Node],
    *,
    num_nodes: int = 2,
    strikes: Mapping[str, int] = NO_STRIKES,
    cordoned: str = "",
    suspects: str = "",
    previous: str = "",
    rotates: bool = False,
) -> str:
    standings = {name: Standing(strikes=number) for name, number in strikes.items()}
    standings |= {name: Standing(cordoned="bad") for name in cordoned}
    before = tuple(Placed(node=name, machine=name.upper()) for name in previous)
    placed = place(free, standings=standings, suspects=suspects, num_nodes=num_nodes, slots=8, previous=before, rotates=rotates)
    return "".join(one.node for one in placed)


def test_placement_prefers_clean_machines_then_warm_ones():
    free = known(d=8, b=8, c=8, a=8)
    assert places(free) == "ab"
    assert places(free, previous="db") == "db", "ranks stay where they were"
    assert places(free, strikes={"D": 1}, previous="db") == "ba"
    assert places(free, previous="cd", suspects="C") == "da"


def test_a_machine_of_the_present_trouble_comes_after_one_with_old_strikes():
    assert places(known(a=8, b=8, c=8), strikes={"C": 5}, suspects="A", previous="ab") == "bc"


def test_placement_takes_a_struck_machine_when_it_must_and_a_cordoned_one_never():
    free = known(a=8, b=8)
    assert places(free, strikes={"A": 99}, suspects="AB") == "ab"
    assert places(free, cordoned="A") == ""


def test_where_any_node_may_be_the_bad_one_each_is_left_out_in_its_turn():
    free, placement, left_out = known(a=8, b=8, c=8, d=8), "abc", []
    for _ in range(4):
        placement = places(free, num_nodes=3, previous=placement, rotates=True)
        left_out += {*"abcd"} - {*placement}
    assert left_out == ["a", "b", "c", "d"]
    assert places(known(a=8, b=8), previous="ba", rotates=True) == "ba"
    assert places(free, strikes={"C": 1, "D": 1}, previous="ab", rotates=True) == "ab", "what has strikes is no better"


def test_nodes_with_too_few_slots_do_not_count():
    assert places(known(a=8, b=7)) == ""


def test_a_placement_tells_the_machines():
    placed = place(known(a=8), standings={}, suspects=(), num_nodes=1, slots=8, previous=())
    assert placed == (Placed(node="a", machine="A"),)


def test_a_machine_whose_old_raylet_is_still_listed_is_used_twice_only_where_nothing_else_is_left():
    twice = [Node(node="a", machine="A", slots=8), Node(node="b", machine="A", slots=8), Node(node="c", machine="C", slots=8)]
    assert places(twice) == "ac"
    assert places(twice, num_nodes=3) == "abc"
