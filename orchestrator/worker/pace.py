"""When the first rank wants a snapshot: as often as it costs training next to nothing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

COST_SHARE = 0.01
"""Of training's time, what snapshots may take."""
SEALING_SHARE = 0.5
"""Of all time, how much of it the processor may digest snapshots."""
SHORTEST_S = 0.5
"""Between two snapshots that choose their moment themselves."""


@dataclass(slots=True)
class Pace:
    every_s: float | None
    """What a person chose; None for as often as is cheap."""
    last_s: float
    """When the last one was taken, for a checkpoint or not; the beginning of training before that."""

    def wants(self, now_s: float, *, cost_s: float, sealed_after_s: float, checkpoint_in_s: float, is_saving: bool) -> bool:
        """Whether one is due, given what the last one cost. One that would be in the way of a checkpoint is left to it, which is a snapshot
        too; but while another is still being written (`is_saving`) the next may be late by any time, and is made no way for.
        """
        every_s = max(SHORTEST_S, cost_s / COST_SHARE, sealed_after_s / SEALING_SHARE) if self.every_s is None else self.every_s
        makes_way = not is_saving and checkpoint_in_s <= 2 * sealed_after_s
        return now_s - self.last_s >= every_s and not makes_way
