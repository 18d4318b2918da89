"""When to hurt a demo run, and whether what came of it is what was promised. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from launch.show.render import Status, short_node
from orchestrator.records.ledger import StepRecord

MAX_DETECTION_S = {"killed": 2.0, "node_lost": 5.0}
MAX_RECOVERY_S = 20.0
MIN_LOSS_DROP = 0.1
MIN_LOST_STEPS = 5
"""A fault comes so long after a checkpoint, so that there is something to replay."""


class Fault(Enum):
    WORKER = "killed"
    """SIGKILL to one worker; the value is the cause that has to be found."""
    NODE = "node_lost"
    """SIGKILL to everything on one node."""


SCRIPT = (Fault.WORKER, Fault.NODE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Injected:
    """What was done to the run, and to whom."""

    fault: Fault
    node: str
    rank: int
    at_s: float
    """Seconds since the epoch."""
    committed_step: int
    """Last checkpoint at that moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Everything that the demo is judged by."""

    status: Status
    injected: tuple[Injected, ...]
    losses: tuple[float, ...]
    """Of every step, in order."""
    verified: bool
    left_behind: tuple[str, ...]
    """Processes of the run that outlived it, one line each."""


def next_fault(status: Status, injected: Sequence[Injected]) -> Fault | None:
    """The fault that is due: the run trains, everything before is recovered from, and a checkpoint came after it."""
    if status["state"] != "running" or len(injected) == len(SCRIPT) or not status["workers"]:
        return None
    if len(status["incidents"]) < len(injected) or any(one["recovered_after_s"] is None for one in status["incidents"]):
        return None
    since = injected[-1].committed_step if injected else 0
    past_checkpoint = status["last_committed_step"] > since and status["step"] >= status["last_committed_step"] + MIN_LOST_STEPS
    return SCRIPT[len(injected)] if past_checkpoint else None


def shortcomings(outcome: Outcome) -> list[str]:
    """What the demo did not show, one line each; empty when all went as promised."""
    status = outcome.status
    found = (
        []
        if status.get("state") == "finished"
        else [f"the run is {status.get('state', 'not there')}, not finished: {status.get('reason', '')}"]
    )
    incidents = status.get("incidents", [])
    found.extend(f"fault {fault.value} was never injected: the run was over before" for fault in SCRIPT[len(outcome.injected) :])
    if len(incidents) != len(outcome.injected):
        found.append(f"{len(incidents)} incidents were found, {len(outcome.injected)} were caused")
    for wanted, incident in zip(outcome.injected, incidents, strict=False):
        found.extend(_shortcomings_of(wanted, incident))
    if not is_falling(outcome.losses):
        found.append("the loss does not fall")
    if not outcome.verified:
        found.append("`braid verify` does not agree with the records")
    found.extend(f"left behind: {process}" for process in outcome.left_behind)
    return found


def losses_of(records: Mapping[int, Sequence[StepRecord]]) -> tuple[float, ...]:
    """The loss of every step, as its newest attempt had it."""
    newest = {record.step: record.loss for attempt in sorted(records) for record in records[attempt]}
    return tuple(newest[step] for step in sorted(newest))


def is_falling(losses: Sequence[float]) -> bool:
    """The last tenth of the steps is clearly below the first."""
    tenth = max(1, len(losses) // 10)
    if len(losses) < 2 * tenth:
        return False
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return last < first * (1 - MIN_LOSS_DROP)


def _shortcomings_of(wanted: Injected, incident: dict[str, Any]) -> list[str]:
    cause, found = wanted.fault.value, []
    if incident["cause"] != cause:
        found.append(f"{cause} was taken for {incident['cause']}")
    if incident["node"] != wanted.node or incident["rank"] != wanted.rank:
        found.append(
            f"{cause} happened on node {short_node(wanted.node)} to rank {wanted.rank}, "
            f"not on {short_node(incident['node'])} to {incident['rank']}"
        )
    noticed_after_s = max(incident["detected_after_s"], incident["at_s"] - wanted.at_s)
    if noticed_after_s > MAX_DETECTION_S[cause]:
        found.append(f"{cause} was noticed after {noticed_after_s:.1f} s; at most {MAX_DETECTION_S[cause]:g} s were promised")
    recovered = incident["recovered_after_s"]
    if recovered is None or recovered > MAX_RECOVERY_S:
        took = "was never recovered from" if recovered is None else f"took {recovered:.1f} s to recover from"
        found.append(f"{cause} {took}; at most {MAX_RECOVERY_S:g} s were promised")
    return found
