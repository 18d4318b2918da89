"""What a demo promises, and what of it a demo that was played fell short of. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.demo.script import Fault, Injected
from launch.show.render import short_node
from launch.status import Status
from orchestrator.records.ledger import StepRecord

MAX_DETECTION_S = {Fault.WORKER: 1.0, Fault.NODE: 5.0, Fault.AGENTS: 3.0}
"""How late it may be noticed. The node may have the controller on it, which Ray starts anew elsewhere first."""
SOURCES = {Fault.WORKER: "memory", Fault.NODE: "another node's memory", Fault.AGENTS: "store"}
"""From where the run goes on."""
MAX_RECOVERY_S = {Fault.WORKER: 15.0, Fault.NODE: 15.0, Fault.AGENTS: 60.0}
"""How long it may take from there to the next step, on two cores that have more to do. After the loss of every agent nobody stands by."""
MAX_UNTOLD_S = 0.001
"""By how much the classes of its time may differ from the wall clock together."""
MIN_LOSS_DROP = 0.1
"""By which part of itself the loss has to fall from the first tenth of the steps to the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What a demo run did and left behind: everything that it is judged by."""

    status: Status
    """The last one that was seen."""
    script: tuple[Fault, ...]
    """What was to be done to the run."""
    injected: tuple[Injected, ...]
    losses: tuple[float, ...]
    """The loss of every step, in order."""
    goodput: dict[str, Any]
    """Where its time went, as `braid goodput --json` tells it."""
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
    found.extend(f"fault {fault.value} was never injected: the run was over before" for fault in played.script[len(played.injected) :])
    if len(incidents) != len(played.injected):
        found.append(f"{len(incidents)} incidents were found, {len(played.injected)} were caused")
    for wanted, incident in zip(played.injected, incidents, strict=False):
        found.extend(_shortcomings_of(wanted, incident))
    if not is_falling(played.losses):
        found.append("the loss does not fall")
    found.extend(_shortcomings_of_the_account(played.goodput))
    if not played.verified:
        found.append("`braid verify` does not agree with the records")
    found.extend(f"left behind: {process}" for process in played.left_behind)
    return found


def _shortcomings_of_the_account(goodput: Mapping[str, Any]) -> list[str]:
    """Every second is to be told, and once."""
    told_s, wall_s = sum(goodput["classes"].values()), goodput["wall_s"]
    found = [] if abs(told_s - wall_s) <= MAX_UNTOLD_S else [f"its goodput tells {told_s:.3f} s of {wall_s:.3f}"]
    return found if goodput["classes"]["productive"] > 0 else [*found, "its goodput knows of no productive step"]


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
    if wanted.node is not None and (incident["node"], incident["rank"]) != (wanted.node, wanted.rank):
        found.append(
            f"{cause} happened on node {short_node(wanted.node)} to rank {wanted.rank}, "
            f"not on {short_node(incident['node'])} to {incident['rank']}"
        )
    noticed_after_s, limit_s = max(incident["detected_after_s"], incident["at_s"] - wanted.at_s), MAX_DETECTION_S[wanted.fault]
    if noticed_after_s > limit_s:
        found.append(f"{cause} was noticed after {noticed_after_s:.1f} s; at most {limit_s:g} s were promised")
    recovered, limit_s = incident["recovered_after_s"], MAX_RECOVERY_S[wanted.fault]
    if recovered is None or recovered > limit_s:
        took = "was never recovered from" if recovered is None else f"took {recovered:.1f} s to recover from"
        found.append(f"{cause} {took}; at most {limit_s:g} s were promised")
    return found if recovered is None else [*found, *_shortcomings_of_the_answer(wanted.fault, incident)]


def _shortcomings_of_the_answer(fault: Fault, incident: dict[str, Any]) -> list[str]:
    """Where the run went on, and with the state from where."""
    found = []
    if (source := incident["source"]) != (promised := SOURCES[fault]):
        found.append(f"{fault.value} was recovered from by {source}; {promised} was promised")
    if fault is Fault.WORKER and incident["left"]:
        found.append(f"{fault.value} made the run leave {', '.join(incident['left'])}; its nodes were to be kept")
    if fault is Fault.NODE and not incident["left"]:
        found.append(f"{fault.value} was recovered from on the same nodes; the spare was to take a place")
    return found
