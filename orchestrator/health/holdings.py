"""How many GPUs a run holds, lacks and keeps in reserve, from moment to moment. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from orchestrator.control import events
from orchestrator.control.state import Stage, Terms
from orchestrator.health.timeline import Moment

HELD, MISSING, SPARE = range(3)


def gpus_over(moments: Iterable[Moment]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """When the numbers may have changed, seconds since the submission; and from then on the GPUs that are held, missing and spare.

    None are held before the first attempt since a person submitted or resumed the run, nor after its end. While it waits for nodes it lacks
    those that its last attempt failed on, of one node at least, and holds the others. Spares are as many as its recipe asks for.
    """
    walk = _Walk()
    found = [(moment.at_s, walk.on(moment)) for moment in moments]
    return np.array([at_s for at_s, _ in found]), np.array([counts for _, counts in found], dtype=np.int64)


class _Walk:
    def __init__(self) -> None:
        self._terms: Terms | None = None
        self._stage = Stage.WAITING
        self._holds = False
        self._is_short = False
        self._lost: set[str] = set()

    def on(self, moment: Moment) -> tuple[int, int, int]:
        match moment.event:
            case events.RunSubmitted() | events.Repaired() as event:
                self._terms = event.terms
            case events.ResumeRequested() as event if self._stage is Stage.ENDED:
                self._terms, self._holds = event.terms, False
            case events.AttemptStarted():
                self._holds, self._is_short, self._lost = True, False, set()
            case events.FaultsSeen(faults=faults):
                self._lost |= {fault.node for fault in faults if fault.node is not None}
            case events.NodesToLeave(nodes=nodes):
                self._lost |= {*nodes}
            case events.NodesShort():
                self._is_short = True
        self._stage = moment.stage
        return self._counts()

    def _counts(self) -> tuple[int, int, int]:
        if self._terms is None or not self._holds or self._stage is Stage.ENDED:
            return 0, 0, 0
        world, per_node = self._terms.world_size, self._terms.workers_per_node
        missing = min(world, per_node * max(1, len(self._lost))) if self._stage is Stage.WAITING and self._is_short else 0
        return world - missing, missing, self._terms.recovery.spares * per_node
