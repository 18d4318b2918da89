"""What each cause of a failure deserves: another attempt or none, after how long, and what is held against the node. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.causes import Cause


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one cause deserves."""

    restart: bool = True
    same_step_limit: int | None = None
    """As many failures of this cause in a row at the same step are taken for deterministic, and end the run; None for no limit."""
    strikes: int = 0
    """How much is held against the node: nodes with fewer strikes are preferred to it."""
    bars_node: bool = False
    """The node is not used again by this run."""


VERDICTS: dict[Cause, Verdict] = {
    Cause.KILLED: Verdict(same_step_limit=3, strikes=1),
    Cause.CRASHED: Verdict(same_step_limit=3),
    Cause.GPU_OUT_OF_MEMORY: Verdict(same_step_limit=3),
    Cause.KERNELS: Verdict(same_step_limit=3, strikes=3),
    Cause.HARDWARE: Verdict(bars_node=True),
    Cause.PEER_LOST: Verdict(),
    Cause.NODE_LOST: Verdict(strikes=1),
    Cause.AGENT_LOST: Verdict(strikes=1),
    Cause.FROZEN: Verdict(strikes=2),
    Cause.HUNG: Verdict(strikes=1),
    Cause.STORE: Verdict(),
    Cause.ACCESS: Verdict(same_step_limit=5),
    Cause.CONFIG: Verdict(restart=False),
    Cause.FENCED: Verdict(),
}


def backoff_s(restarts_in_row: int, base_s: float, limit_s: float) -> float:
    """Seconds to wait before restart number `restarts_in_row` (1 is the first, and immediate)."""
    if restarts_in_row <= 1:
        return 0.0
    return min(limit_s, base_s * 2.0 ** min(restarts_in_row - 2, 60))
