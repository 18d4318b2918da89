"""The nodes of the cluster, and how many workers of the run each could take now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from orchestrator.control.placement import Node
from orchestrator.deadlines import NODES_LISTED_EVERY_S
from orchestrator.fleet.transport import ClusterNode, Transport

NEVER_S = -float("inf")


class GpuSlots:
    """GPUs that nobody holds, and those that the run holds itself; never more than `wanted`, which is what a node must have.

    A node that the run holds keeps the same number from the order to start its agent until its GPUs are back, `release_timeout_s` at most.
    """

    def __init__(self, *, wanted: int, release_timeout_s: float, clock: Callable[[], float]) -> None:
        self._wanted = wanted
        self._release_timeout_s = release_timeout_s
        self._clock = clock
        self._held_until_s: dict[str, float] = {}

    def count(self, free: Mapping[str, int], *, held: Collection[str], refused: Collection[str]) -> Callable[[str], int]:
        """The slots of a node, by its id.

        `free`: GPUs that nobody holds; `held`: nodes whose GPUs the run's agents hold or wait for; `refused`: nodes where an agent waited
        in vain.
        """
        now_s = self._clock()
        self._held_until_s |= dict.fromkeys(held, now_s + self._release_timeout_s)
        ours = {node for node, until_s in self._held_until_s.items() if now_s < until_s} - set(refused)
        self._held_until_s = {node: self._held_until_s[node] for node in ours}
        return lambda node: self._wanted if node in ours else min(self._wanted, free.get(node, 0))


class NodeList:
    """What the cluster lists, looked at once a second at most: with a thousand nodes that costs more than all else in a look."""

    def __init__(
        self, transport: Transport, *, wanted: int, counts_gpus: bool, gpu_release_timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._transport = transport
        self._wanted = wanted
        self._counts_gpus = counts_gpus
        self._clock = clock
        self._slots = GpuSlots(wanted=wanted, release_timeout_s=gpu_release_timeout_s, clock=clock)
        self._listed: tuple[ClusterNode, ...] = ()
        self._free: Mapping[str, int] = {}
        self._list_again_s = NEVER_S
        self._counted: tuple[frozenset[str], ...] = ()
        """The nodes that were held, lost and refused when `nodes` was made."""
        self._nodes: tuple[Node, ...] = ()

    def nodes(self, *, held: Collection[str], lost: Collection[str], refused: Collection[str]) -> tuple[Node, ...]:
        """Those that are alive. The same objects as before where nothing changed.

        `lost`: nodes whose agent is lost. Where that is news the cluster is asked at once, since maybe it was the node that was lost.
        """
        now_s = self._clock()
        before, counted = self._counted, (frozenset(held), frozenset(lost), frozenset(refused))
        is_news = bool(before) and not counted[1] <= before[1]
        if now_s < self._list_again_s and counted == before:
            return self._nodes
        if now_s >= self._list_again_s or is_news:
            self._list_again_s = now_s + NODES_LISTED_EVERY_S
            self._listed = tuple(node for node in self._transport.nodes() if node.is_alive)
            self._free = self._transport.free_gpus() if self._counts_gpus else {}
        self._counted = counted
        slots = self._slots.count(self._free, held=held, refused=refused) if self._counts_gpus else (lambda node: self._wanted)
        known = {node.node: node for node in self._nodes}
        nodes = tuple(_node(listed, slots(listed.node), known.get(listed.node)) for listed in self._listed)
        self._nodes = self._nodes if nodes == self._nodes else nodes
        return self._nodes


def _node(listed: ClusterNode, slots: int, known: Node | None) -> Node:
    if known is not None and (known.machine, known.slots) == (listed.machine, slots):
        return known
    return Node(node=listed.node, machine=listed.machine, slots=slots)
