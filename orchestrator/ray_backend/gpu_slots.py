"""How many workers of a run each node could take now, by its GPUs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from orchestrator.deadlines import GPUS_COUNTED_EVERY_S, GPUS_SETTLE_WITHIN_S


class GpuSlots:
    """GPUs that nobody holds, and those that the run holds itself; never more than `wanted`, which is what a node must have.

    A node that the run is on keeps the same number from the order to start until its GPUs are back: every change is journaled.
    """

    def __init__(self, *, wanted: int, ask: Callable[[], Mapping[str, int]], clock: Callable[[], float]) -> None:
        self._wanted = wanted
        self._ask = ask
        self._clock = clock
        self._free: Mapping[str, int] = {}
        self._ask_again_s = -float("inf")
        self._held_until_s: dict[str, float] = {}

    def count(self, *, held: Collection[str], refused: Collection[str]) -> Callable[[str], int]:
        """The slots of a node, by its id.

        `held`: nodes whose GPUs the run's agents hold or wait for; `refused`: nodes where an agent waited in vain.
        """
        now_s = self._clock()
        if now_s >= self._ask_again_s:
            self._free, self._ask_again_s = self._ask(), now_s + GPUS_COUNTED_EVERY_S
        self._held_until_s |= dict.fromkeys(held, now_s + GPUS_SETTLE_WITHIN_S)
        ours = {node for node, until_s in self._held_until_s.items() if now_s < until_s} - set(refused)
        self._held_until_s = {node: self._held_until_s[node] for node in ours}
        return lambda node: self._wanted if node in ours else min(self._wanted, self._free.get(node, 0))
