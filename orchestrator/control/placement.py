"""Which nodes the next attempt runs on. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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
    suspects: Collection[str],
    num_nodes: int,
    slots: int,
    previous: tuple[Placed, ...],
    rotates: bool = False,
) -> tuple[Placed, ...]:
    """`num_nodes` nodes with `slots` each, ranks in their order; () where there are too few.

    Machines that the present trouble was seen on (`suspects`) come last, and before them those with more strikes. Of equals, those come
    first that the previous attempt used (their caches are warm), then by name. A suspect is better than none; a cordoned machine is not.

    Where it `rotates`, those come first that the previous attempt did not use, and those last that the run has used for longest: they have
    the lowest ranks. So one by one, every node is left out.

    A machine twice comes after all others: as a rule one of the two is a raylet that is gone, and not yet taken off the list.
    """
    before = {placed.node: index for index, placed in enumerate(previous)}
    ranked = sorted(
        usable(nodes, standings=standings, slots=slots),
        key=lambda node: (
            node.machine in suspects,
            standings.get(node.machine, GOOD_STANDING).strikes,
            (node.node in before) is rotates,
            -before.get(node.node, 0) if rotates else 0,
            node.node,
        ),
    )
    if len(ranked) < num_nodes:
        return ()
    first = {node.machine: node for node in reversed(ranked)}
    ranked.sort(key=lambda node: first[node.machine] is not node)
    chosen = sorted(ranked[:num_nodes], key=lambda node: (before.get(node.node, len(before)), node.node))
    return tuple(Placed(node=node.node, machine=node.machine) for node in chosen)
