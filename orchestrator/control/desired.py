"""What the cluster is to look like. The cluster makes it so, again at every look: nothing is lost between a decision and its act. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.causes import Cause
from orchestrator.control.state import Fault, Incident, RunState, Stage
from orchestrator.messages import Mode
from orchestrator.records.nodes import Finding

MODES = {Stage.STARTING: Mode.RUN, Stage.RUNNING: Mode.RUN, Stage.SAVING: Mode.SAVE}
NEED_EVIDENCE = (Cause.HUNG, Cause.FROZEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Desired:
    """Levels, not steps: asking for the same again changes nothing."""

    held: tuple[str, ...] = ()
    """Nodes whose agent is to exist; every other agent of the run is to end."""
    attempt: int = 0
    """0: none ever ran."""
    mode: Mode = Mode.KILL
    """What the workers of the attempt are to do; those of every older attempt are to be gone."""
    placement: tuple[str, ...] = ()
    """Nodes of the attempt: ranks 0 … workers_per_node − 1 are on the first, and so on."""
    workers_per_node: int = 0
    world_size: int = 0
    config_version: int = 0
    may_start: bool = False
    """Workers of the attempt may not have been started yet, so an agent that is missing is started; where this is False, it is lost."""
    findings: tuple[Finding, ...] = ()
    """What the run's failures are to be remembered by in the registry of nodes."""
    wants_evidence: bool = False
    """Workers write down where they stand before they are killed."""


def desired(run: str, state: RunState) -> Desired:
    """What a run in this state needs. Between attempts it keeps its nodes, so that the next one finds its agents there."""
    terms = state.terms
    if terms is None or state.stage is Stage.ENDED:
        return Desired(attempt=state.attempt, findings=findings(run, state))
    newest = state.incidents[-1] if state.incidents else None
    return Desired(
        held=tuple(placed.node for placed in state.placement if placed.node not in state.given_back),
        attempt=state.attempt,
        mode=MODES.get(state.stage, Mode.KILL),
        placement=tuple(placed.node for placed in state.placement),
        workers_per_node=terms.workers_per_node,
        world_size=terms.world_size,
        config_version=terms.config_version,
        may_start=state.stage is Stage.STARTING,
        wants_evidence=state.stage is Stage.DRAINING and newest is not None and newest.cause in NEED_EVIDENCE,
        findings=findings(run, state),
    )


def findings(run: str, state: RunState) -> tuple[Finding, ...]:
    """What is to be remembered of machines: a cordon as soon as the attempt is over, strikes once no later sign can change the blame."""
    found = []
    for incident in state.incidents:
        is_settled = incident.attempt < state.attempt or state.stage is Stage.ENDED
        is_over = is_settled or state.stage is Stage.WAITING
        held_against = {fault.machine: fault for fault in reversed(incident.faults)}
        found += [_finding(run, incident, held_against[machine], cordons=True) for machine in incident.cordons if is_over]
        found += [_finding(run, incident, held_against[machine], strikes=n) for machine, n in incident.strikes.items() if is_settled]
    return tuple(found)


def _finding(run: str, incident: Incident, fault: Fault, *, strikes: int = 0, cordons: bool = False) -> Finding:
    assert fault.machine is not None, "what has no machine is held against none"
    return Finding(
        at_s=incident.at_s,
        machine=fault.machine,
        run=run,
        attempt=incident.attempt,
        cause=fault.cause.value,
        detail=fault.detail,
        strikes=strikes,
        cordons=cordons,
    )
