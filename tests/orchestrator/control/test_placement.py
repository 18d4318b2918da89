"""Which nodes an attempt gets, and in which order."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.causes import Cause
from orchestrator.control.observe import next_placement
from orchestrator.control.placement import Node, Placed, place
from orchestrator.records.nodes import Standing
from tests.orchestrator.control.stories import agent, failed, fault, gone, play, running, seen

NO_STRIKES: Mapping[str, int] = {}


def known(**slots: int) -> list[Node]:
    return [Node(node=name, machine=name.upper(), slots=number) for name, number in slots.items()]


def places(
    free: list[Node],
    *,
    num_nodes: int = 2,
    strikes: Mapping[str, int] = NO_STRIKES,
    cordoned: str = "",
    leave: str = "",
    previous: str = "",
    held: str | None = None,
    ready: str = "",
    turn: int | None = None,
) -> str:
    """`held`: those of the previous attempt, unless told otherwise."""
    standings = {name: Standing(strikes=number) for name, number in strikes.items()}
    standings |= {name: Standing(cordoned="bad") for name in cordoned}
    before = tuple(Placed(node=name, machine=name.upper()) for name in previous)
    held = previous if held is None else held
    placed = place(free, standings=standings, leave=leave, num_nodes=num_nodes, slots=8, previous=before, held=held, ready=ready, turn=turn)
    return "".join(one.node for one in placed)


def test_placement_prefers_clean_machines_then_warm_ones():
    free = known(d=8, b=8, c=8, a=8)
    assert places(free) == "ab"
    assert places(free, previous="db") == "db", "ranks stay where they were"
    assert places(free, strikes={"D": 1}, previous="db", held="") == "ab"
    assert places(free, previous="cd", leave="C") == "ad"


def test_a_strike_moves_no_run_off_a_node_that_it_is_on_and_chooses_among_others():
    free = known(a=8, b=8, c=8, d=8)
    assert places(free, strikes={"A": 5}, previous="ab") == "ab"
    assert places(free, strikes={"A": 5, "C": 1}, previous="ab", leave="B") == "ad"


def test_of_free_nodes_those_come_first_on_which_processes_stand_by():
    free = known(a=8, b=8, c=8, d=8)
    assert places(free, previous="ab", leave="B", ready="abd") == "ad"
    assert places(free, previous="ab", leave="B", ready="abd", strikes={"D": 1}) == "ac", "a good machine is worth more"


def test_a_machine_that_is_to_be_left_comes_after_one_with_old_strikes():
    assert places(known(a=8, b=8, c=8), strikes={"C": 5}, leave="A", previous="ab") == "cb"


def test_placement_takes_a_struck_machine_when_it_must_and_a_cordoned_one_never():
    free = known(a=8, b=8)
    assert places(free, strikes={"A": 99}, leave="AB") == "ab"
    assert places(free, cordoned="A") == ""


def test_a_new_node_takes_the_place_that_another_left():
    """The memory of those that stay holds the state of their own ranks."""
    assert places(known(a=8, c=8, d=8, e=8), num_nodes=4, previous="abcd") == "aecd"
    assert places(known(z=8, c=8, b=8), num_nodes=3, previous="abc") == "zbc"
    assert places(known(a=8, b=8, c=8), num_nodes=3, previous="ba") == "bac", "a run that grew"
    assert places(known(c=8, b=8), num_nodes=2, previous="abc") == "cb", "a run that shrank"


NAMES = st.permutations("abcdefgh")


@given(NAMES, NAMES, st.integers(1, 6), st.integers(1, 8), st.sets(st.sampled_from("ABCDEFGH")), st.none() | st.integers(0, 9))
def test_whatever_is_left_who_stays_keeps_its_place(before, listed, num_nodes: int, alive: int, leave: set[str], turn: int | None):
    previous, free = "".join(before[:num_nodes]), known(**dict.fromkeys(listed[:alive], 8))
    placed = places(free, num_nodes=num_nodes, previous=previous, leave="".join(leave), turn=turn)
    assert len(placed) == len({*placed}) == (num_nodes if alive >= num_nodes else 0)
    for index, node in enumerate(placed):
        assert previous[index] == node or node not in previous, "it is another rank's"
    others = [node for node in free if node.node not in placed and node.machine not in leave]
    assert not placed or not others or turn is not None or all(node.upper() not in leave for node in placed), "it was to be left"


def test_where_any_node_may_be_the_bad_one_each_is_left_out_in_its_turn():
    free, placement, left_out = known(a=8, b=8, c=8, d=8), "abc", []
    for turn in range(4):
        placement = places(free, num_nodes=3, previous=placement, turn=turn)
        left_out += {*"abcd"} - {*placement}
    assert left_out == ["a", "b", "c", "d"]
    assert places(known(a=8, b=8), previous="ba", turn=0) == "ba"


def test_in_turn_a_machine_with_strikes_is_tried_where_no_other_is_free():
    free, struck = known(a=8, b=8, c=8), {"C": 1}
    assert [places(free, strikes=struck, previous=previous, turn=turn) for turn, previous in enumerate(("ab", "cb"))] == ["cb", "ca"]
    assert places(known(a=8, b=8, c=8, d=8), strikes={"C": 1}, previous="ab", turn=0) == "db", "of free nodes the good one"
    assert places(free, strikes=struck, leave="C", previous="ab", turn=0) == "ab"


def test_two_free_nodes_take_two_places_at_a_time():
    free, placement, left_out = known(a=8, b=8, c=8, d=8, e=8), "abc", []
    for turn in range(2):
        placement = places(free, num_nodes=3, previous=placement, turn=turn)
        left_out.append("".join(sorted({*"abcde"} - {*placement})))
    assert left_out == ["ab", "cd"]


def test_nodes_with_too_few_slots_do_not_count():
    assert places(known(a=8, b=7)) == ""


def test_a_placement_tells_the_machines():
    placed = place(known(a=8), standings={}, leave=(), num_nodes=1, slots=8, previous=(), held=())
    assert placed == (Placed(node="a", machine="A"),)


def test_a_machine_whose_old_raylet_is_still_listed_is_used_twice_only_where_nothing_else_is_left():
    twice = [Node(node="a", machine="A", slots=8), Node(node="b", machine="A", slots=8), Node(node="c", machine="C", slots=8)]
    assert places(twice) == "ac"
    assert places(twice, num_nodes=3) == "abc"


def test_of_free_nodes_one_whose_agent_was_heard_of_lately_comes_first():
    state = play(*running(), failed(1, fault(Cause.NODE_LOST, "b")), gone(1))
    for silent_s, expected in ((0.5, "c"), (9.0, "d")):
        look = seen(agent("c", attempt=0, age_s=silent_s), agent("d", attempt=0), alive="acde")
        assert [one.node for one in next_placement(state, look)] == ["a", expected]
