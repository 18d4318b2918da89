"""Free nodes that a run holds ready, so that the place of a lost one is taken without a wait. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator.control.placement import GOOD_STANDING, Node, usable
from orchestrator.records.nodes import Standing


class Spares:
    """Those of one run. Its agents are there, and have no order."""

    def __init__(self, number: int) -> None:
        self.nodes: tuple[str, ...] = ()
        self._number = number
        self._refused: set[str] = set()
        """Where an agent ended by itself: in this attempt another one would."""

    def adopt(self, nodes: Sequence[str]) -> None:
        """An earlier controller held them."""
        self.nodes = tuple(nodes)

    def begin_attempt(self) -> None:
        self._refused.clear()

    def choose(
        self,
        nodes: Sequence[Node],
        *,
        standings: Mapping[str, Standing],
        slots: int,
        placement: Collection[str],
        over: Collection[str],
        used: Collection[str],
    ) -> bool:
        """Whether they are others now: as many as wanted, or as there are, as `placement.place` takes them; of equals those that it has.

        `placement`: the nodes of the attempt, whose machines are no spares under another name. `over`: nodes whose agent has ended by
        itself. `used`: those whose agent has been in an attempt; one that was left has to go before another may stand by there.
        """
        before = self.nodes
        self._refused |= set(before).intersection(over)
        taken = {node.machine for node in nodes if node.node in placement}
        fit = usable(nodes, standings=standings, slots=slots)
        free = [node for node in fit if node.machine not in taken and node.node not in (*placement, *self._refused, *used)]
        free.sort(key=lambda node: (standings.get(node.machine, GOOD_STANDING).strikes, node.node not in before, node.node))
        self.nodes = tuple(node.node for node in free[: self._number])
        return self.nodes != before
