"""Which nodes the next attempt runs on. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records.nodes import Standing

GOOD_STANDING = Standing()


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    node: str
    """The cluster's id of the node, which changes whenever its raylet restarts."""
    machine: str
    """What stays: see `ray_backend`. Faults are held against it, and people cordon it by this name."""
    slots: int
    """Workers it can take: its GPUs, or on the CPU as many as asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A node that an attempt runs on."""

    node: str
    machine: str


def usable(nodes: Iterable[Node], *, standings: Mapping[str, Standing], slots: int) -> list[Node]:
    """Those that may be used: not cordoned, and with room for `slots` workers."""
    return [node for node in nodes if node.slots >= slots and not standings.get(node.machine, GOOD_STANDING).cordoned]


def place(
    nodes: Iterable[Node],
    *,
    standings: Mapping[str, Standing],
    leave: Collection[str],
    num_nodes: int,
    slots: int,
    previous: tuple[Placed, ...],
    held: Collection[str],
    ready: Collection[str] = (),
    turn: int | None = None,
) -> tuple[Placed, ...]:
    """`num_nodes` nodes with `slots` each, ranks in their order; () where there are too few.

    Machines that are to be left (`leave`) come last. Before them come the nodes that the run holds, whose memory has the newest state, and
    those of a machine without strikes; then others, those with fewer strikes first. Of equals, those come first that the previous attempt
    used (their caches are warm), then those whose agent is there (`ready`), then by name. A machine to be left is better than none; a
    cordoned one is not taken.

    In a `turn`, free nodes take the places that are next: in turns 0, 1, … one place after the other is given to another node, to one of
    a machine with strikes only where no other is free.
    """
    fit = usable(nodes, standings=standings, slots=slots)
    before = {placed.node for placed in previous}
    strikes = {node.node: 0 if node.node in held else standings.get(node.machine, GOOD_STANDING).strikes for node in fit}
    free = [node for node in fit if node.node not in before and node.machine not in leave]
    fresh = [node for node in free if not strikes[node.node]] or free
    resting = _next_in_turn(previous, turn, min(len(fresh), len(previous))) if turn is not None else set()
    ranked = sorted(
        fit,
        key=lambda node: (
            node.machine in leave,
            node.node in resting,
            strikes[node.node],
            node.node not in before,
            node.node not in ready,
            node.node,
        ),
    )
    return _in_their_places(_twins_last(ranked)[:num_nodes], previous) if len(ranked) >= num_nodes else ()


def _twins_last(ranked: Sequence[Node]) -> list[Node]:
    """A machine twice comes after all others: as a rule one of the two is a raylet that is gone, and not yet taken off the list."""
    first = {node.machine: node for node in reversed(ranked)}
    return sorted(ranked, key=lambda node: first[node.machine] is not node)


def _next_in_turn(previous: tuple[Placed, ...], turn: int, number: int) -> set[str]:
    return {previous[(turn * number + index) % len(previous)].node for index in range(number)}


def _in_their_places(chosen: Collection[Node], previous: tuple[Placed, ...]) -> tuple[Placed, ...]:
    """A node that stays keeps its place, since its memory holds the state of the ranks there; new ones take the places that are free."""
    chosen_nodes = {node.node: node for node in chosen}
    places = [chosen_nodes.pop(placed.node, None) for placed in previous[: len(chosen)]]
    places += [None] * (len(chosen) - len(places))
    new = iter(sorted(chosen_nodes.values(), key=lambda node: node.node))
    return tuple(Placed(node=node.node, machine=node.machine) for node in (place or next(new) for place in places))
