"""What each cause of a failure deserves: another attempt or none, after how long, and what is held against the node. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.causes import Cause


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one cause deserves."""

    same_step_limit: int | None = None
    """As many failures of this cause in a row at the same step, on different machines or where there is no other, are taken for
    deterministic, and end the run; None for no limit."""
    ends_if_agreed: bool = False
    """No restart can help when all ranks say it, or ranks of different nodes."""
    leaves: bool = False
    """It is the machine's own: the next attempt is to be without it. Any other is answered on the same nodes first: see `ladder`."""
    strikes: int = 0
    """How much is held against the machine: machines with fewer strikes are preferred to it."""
    cordons: bool = False
    """The machine is not used again by any run until a person clears it."""
    counts: bool = True
    """It counts against `recovery.max_restarts`."""


VERDICTS: dict[Cause, Verdict] = {
    Cause.LEAVING: Verdict(leaves=True, counts=False),
    Cause.NODE_LOST: Verdict(leaves=True, strikes=1),
    Cause.HARDWARE: Verdict(leaves=True, same_step_limit=3, cordons=True),
    Cause.DISK_FULL: Verdict(leaves=True, strikes=1),
    Cause.KERNELS: Verdict(leaves=True, same_step_limit=3, strikes=3),
    Cause.CUT_OFF: Verdict(leaves=True, strikes=1),
    Cause.AGENT_LOST: Verdict(leaves=True, strikes=1),
    Cause.KILLED: Verdict(same_step_limit=3, strikes=1),
    Cause.FROZEN: Verdict(leaves=True, strikes=2),
    Cause.FENCED: Verdict(),
    Cause.CONFIG: Verdict(leaves=True, ends_if_agreed=True, same_step_limit=2, strikes=1),
    Cause.DIVERGED: Verdict(same_step_limit=2),
    Cause.ACCESS: Verdict(leaves=True, counts=False),
    Cause.STORE: Verdict(),
    Cause.GPU_OUT_OF_MEMORY: Verdict(same_step_limit=3, strikes=1),
    Cause.CRASHED: Verdict(same_step_limit=3, strikes=1),
    Cause.HUNG: Verdict(leaves=True, strikes=1),
    Cause.ABORTED: Verdict(same_step_limit=5),
    Cause.PEER_LOST: Verdict(),
}
STRIKES_WITHOUT_CORDON = 3
"""What a machine gets that would be cordoned, had the run not cordoned `recovery.max_cordons` machines already."""


def backoff_s(restarts_in_row: int, base_s: float, limit_s: float) -> float:
    """Seconds to wait before restart number `restarts_in_row` (1 is the first, and immediate)."""
    if restarts_in_row <= 1:
        return 0.0
    return min(limit_s, base_s * 2.0 ** min(restarts_in_row - 2, 60))
