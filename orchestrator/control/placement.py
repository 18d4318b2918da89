"""Which nodes the next attempt runs on. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    node: str
    """The cluster's id of the node, which changes whenever its raylet restarts."""
    machine: str
    """What stays: see `ray_backend`. Faults are held against it, and people cordon it by this name."""
    slots: int
    """Workers it can take: its GPUs, or on the CPU as many as asked."""


def place(
    nodes: Mapping[str, Node],
    *,
    strikes: Mapping[str, int],
    barred: Collection[str],
    num_nodes: int,
    slots: int,
    previous: tuple[str, ...],
) -> tuple[str, ...]:
    """`num_nodes` node ids with `slots` each, ranks in their order; () where there are too few.

    Nodes with fewer strikes come first, then those that the previous attempt used (their caches are warm), then by name. A struck node
    is better than none; a barred one is not.
    """
    usable = [node.node for node in nodes.values() if node.slots >= slots and node.node not in barred]
    ranked = sorted(usable, key=lambda name: (strikes.get(name, 0), name not in previous, name))
    if len(ranked) < num_nodes:
        return ()
    return tuple(sorted(ranked[:num_nodes], key=lambda name: (_position(name, previous), name)))


def _position(name: str, previous: tuple[str, ...]) -> int:
    return previous.index(name) if name in previous else len(previous)
