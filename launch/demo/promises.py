"""What a demo promises, and what of it a demo that was played fell short of. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.demo.script import SCRIPT, Injected
from launch.show.render import short_node
from launch.status import Status
from orchestrator.records.ledger import StepRecord

MAX_DETECTION_S = {"killed": 2.0, "node_lost": 5.0}
"""By cause: how late it may be noticed."""
MAX_RECOVERY_S = 20.0
MIN_LOSS_DROP = 0.1
"""By which part of itself the loss has to fall from the first tenth of the steps to the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What a demo run did and left behind: everything that it is judged by."""

    status: Status
    """The last one that was seen."""
    injected: tuple[Injected, ...]
    losses: tuple[float, ...]
    """The loss of every step, in order."""
    verified: bool
    """Whether `braid verify` agrees with the records."""
    proof: str
    """What `braid verify` says, in one line."""
    left_behind: tuple[str, ...]
    """Processes of the run that outlived it, one line each."""


def shortcomings(played: Played) -> list[str]:
    """What the demo did not show, one line each; empty when all went as promised."""
    status = played.status
    found = (
        []
        if status.get("state") == "finished"
        else [f"the run is {status.get('state', 'not there')}, not finished: {status.get('reason', '')}"]
    )
    incidents = status.get("incidents", [])
    found.extend(f"fault {fault.value} was never injected: the run was over before" for fault in SCRIPT[len(played.injected) :])
    if len(incidents) != len(played.injected):
        found.append(f"{len(incidents)} incidents were found, {len(played.injected)} were caused")
    for wanted, incident in zip(played.injected, incidents, strict=False):
        found.extend(_shortcomings_of(wanted, incident))
    if not is_falling(played.losses):
        found.append("the loss does not fall")
    if not played.verified:
        found.append("`braid verify` does not agree with the records")
    found.extend(f"left behind: {process}" for process in played.left_behind)
    return found


def losses_of(records: Mapping[int, Sequence[StepRecord]]) -> tuple[float, ...]:
    """The loss of every step, as its newest attempt had it."""
    newest = {record.step: record.loss for attempt in sorted(records) for record in records[attempt]}
    return tuple(newest[step] for step in sorted(newest))


def is_falling(losses: Sequence[float]) -> bool:
    """Whether the mean of the last tenth of the steps is clearly below that of the first."""
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
