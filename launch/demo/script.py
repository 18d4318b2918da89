"""When a demo run is hurt, and how. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from launch.status import Status

MIN_LOST_STEPS = 5
"""A fault comes at least so many steps after a checkpoint, so that there is something to replay."""


class Fault(Enum):
    """What is done to a run; the value is the cause that the run has to find."""

    WORKER = "killed"
    """SIGKILL to one worker."""
    NODE = "node_lost"
    """SIGKILL to everything on one node."""
    AGENTS = "agent_lost"
    """SIGKILL to every node's agent at once, which takes all that is in memory with it."""


SCRIPT = (Fault.WORKER, Fault.NODE)
"""The faults of a demo, in the order in which they come."""
WHOLE_SCRIPT = (*SCRIPT, Fault.AGENTS)
"""With `--all`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Injected:
    """What was done to the run, and to whom."""

    fault: Fault
    node: str | None
    """None for all of them."""
    rank: int | None
    at_s: float
    """Seconds since the epoch."""
    committed_step: int
    """Last checkpoint at that moment."""


def next_fault(status: Status, injected: Sequence[Injected], script: Sequence[Fault] = SCRIPT) -> Fault | None:
    """The fault that is due: the run trains, everything before is recovered from, and a checkpoint came after it."""
    if status["state"] != "running" or len(injected) == len(script) or not status["workers"]:
        return None
    if len(status["incidents"]) < len(injected) or any(one["recovered_after_s"] is None for one in status["incidents"]):
        return None
    since = injected[-1].committed_step if injected else 0
    past_checkpoint = status["last_committed_step"] > since and status["step"] >= status["last_committed_step"] + MIN_LOST_STEPS
    return script[len(injected)] if past_checkpoint else None
