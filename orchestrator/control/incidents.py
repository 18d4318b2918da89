"""Faults and what explains them: one failure shows in several places, its root cause often last. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from orchestrator.control.causes import Cause
from orchestrator.control.events import FaultsSeen
from orchestrator.control.placement import Placed
from orchestrator.control.state import Fault, Incident, RunState, Stage, Terms
from orchestrator.control.verdicts import STRIKES_WITHOUT_CORDON, VERDICTS

EXPLAINS = {cause: order for order, cause in enumerate(Cause)}
"""How much a cause explains: the lower the number, the more."""
NEVER_A_CONSEQUENCE = (Cause.HARDWARE, Cause.DISK_FULL, Cause.KERNELS)
"""Faults that name what is broken: they count beside anything else, on the same node too."""
NOT_OF_ANOTHER_NODE = (Cause.LEAVING, Cause.NODE_LOST, Cause.AGENT_LOST, Cause.KILLED, Cause.FROZEN)
"""Faults that no trouble of another node brings about; on one node, the first of them explains the others."""


def incident_of(state: RunState, seen: FaultsSeen) -> Incident:
    """What an attempt failed of, as far as is known at its first fault."""
    root, also = explain(seen.faults)
    incident = Incident(
        **_told(root),
        attempt=seen.attempt,
        at_step=seen.at_step,
        at_s=seen.at_s,
        detected_after_s=seen.silent_s,
        also=also,
    )
    return _hold_against(state, incident)


def explained(state: RunState, seen: FaultsSeen) -> RunState:
    """The state with its newest incident as it looks in the light of further faults of the same attempt.

    Applied until the next attempt has finished a step: the cause of a failure often shows after its consequences. The incident keeps the
    moment at which the first sign of it was seen.
    """
    newest = state.incidents[-1] if state.incidents else None
    if newest is None or newest.attempt != seen.attempt or newest.recovered_after_s is not None:
        return state
    faults = tuple(fault for fault in seen.faults if state.stage is not Stage.WAITING or _explains_late(fault, newest))
    root, also = explain((*newest.faults, *faults))
    told = replace(newest, **_told(root), also=also, at_step=max(newest.at_step, seen.at_step))
    if (told.cause, told.node) != (newest.cause, newest.node):
        told = replace(told, detected_after_s=max(0.0, newest.at_s - (seen.at_s - seen.silent_s)))
    before = replace(state, incidents=state.incidents[:-1])
    return replace(state, incidents=(*before.incidents, _hold_against(before, told)))


def _explains_late(fault: Fault, incident: Incident) -> bool:
    """Once the attempt is over, a node may leave for reasons of its own: it explains what was seen on itself, and what nothing explains."""
    return fault.node == incident.node or incident.cause in (Cause.PEER_LOST, Cause.ABORTED)


def explain(faults: Iterable[Fault]) -> tuple[Fault, tuple[Fault, ...]]:
    """The fault that explains most of all of them, the first one seen of equals; and those that it does not explain."""
    by_place = _newest_by_place(faults)
    root = min(by_place, key=lambda fault: EXPLAINS[fault.cause])
    also: list[Fault] = []
    explained_nodes = {root.node}
    for fault in sorted(by_place, key=lambda fault: EXPLAINS[fault.cause]):
        stands = fault.cause in NEVER_A_CONSEQUENCE or (fault.cause in NOT_OF_ANOTHER_NODE and fault.node not in explained_nodes)
        if fault is not root and stands:
            also.append(fault)
            explained_nodes.add(fault.node)
    return root, tuple(also)


def _newest_by_place(faults: Iterable[Fault]) -> list[Fault]:
    """One fault for each cause and node, in the order of their first sight, each as it was told with most ranks."""
    found: dict[tuple[Cause, str | None], Fault] = {}
    for fault in faults:
        key = fault.cause, fault.node
        if key not in found or fault.num_ranks > found[key].num_ranks:
            found[key] = fault
    return list(found.values())


def _told(fault: Fault) -> dict[str, Any]:
    return {field.name: getattr(fault, field.name) for field in fields(Fault)}


def _hold_against(state: RunState, incident: Incident) -> Incident:
    """The incident with what it means for machines; `state` has the incidents before it."""
    assert state.terms is not None
    cordoned = {machine for one in state.incidents if one.attempt > state.resumed_after_attempt for machine in one.cordons}
    strikes: dict[str, int] = {}
    cordons: list[str] = []
    for fault in incident.faults:
        verdict, machine = VERDICTS[fault.cause], fault.machine
        if machine is None or not (verdict.strikes or verdict.cordons) or speaks_of_all(fault, state.terms):
            continue
        if verdict.cordons and len(cordoned | {*cordons}) < state.terms.recovery.max_cordons:
            cordons.append(machine)
        else:
            strikes[machine] = strikes.get(machine, 0) + (STRIKES_WITHOUT_CORDON if verdict.cordons else verdict.strikes)
    return replace(incident, strikes=strikes, cordons=tuple(dict.fromkeys(cordons)))


def speaks_of_all(fault: Fault, terms: Terms) -> bool:
    """Every rank says so, of something that need not come from a node: no machine is to blame."""
    return fault.num_ranks >= terms.world_size and fault.cause not in (*NEVER_A_CONSEQUENCE, *NOT_OF_ANOTHER_NODE)


def open_incidents(state: RunState) -> Sequence[Incident]:
    """Those that the run has not recovered from, since a person last resumed it."""
    return [one for one in state.incidents if one.recovered_after_s is None and one.attempt > state.resumed_after_attempt]


def close_incidents(state: RunState, at_s: float) -> RunState:
    """Every open incident is recovered from: the current attempt has finished a step."""
    resumed_from = state.resumed_from or 0

    def closed(incident: Incident) -> Incident:
        replayed = max(0, incident.at_step - resumed_from)
        recovered_after_s = max(0.0, at_s - incident.at_s)  # clocks of two controllers may differ
        return replace(
            incident,
            recovered_after_s=recovered_after_s,
            resumed_from_step=resumed_from,
            source=state.source,
            steps_replayed=replayed,
        )

    still_open = open_incidents(state)
    return replace(state, incidents=tuple(closed(one) if one in still_open else one for one in state.incidents))


def in_a_row(state: RunState) -> Sequence[Incident]:
    """The newest incidents, since the run was last resumed, that have the same cause at the same step, the newest first.

    Two that are a step apart were at the same one: of the step that a rank fails in, another may or may not have told already.
    """
    last = state.incidents[-1]

    def is_like_last(incident: Incident) -> bool:
        is_new = incident.attempt > state.resumed_after_attempt
        return is_new and incident.cause is last.cause and abs(incident.at_step - last.at_step) <= 1

    return list(itertools.takewhile(is_like_last, reversed(state.incidents)))


def moved(state: RunState, placement: Sequence[Placed]) -> RunState:
    """The next attempt runs on these nodes: what was left for it is left because of the open incidents."""
    kept = {placed.node for placed in placement}
    left = [placed.machine for placed in state.placement if placed.node not in kept]
    still_open = open_incidents(state)
    told = [replace(one, left=tuple(dict.fromkeys((*one.left, *left)))) if one in still_open else one for one in state.incidents]
    return replace(state, incidents=tuple(told))
