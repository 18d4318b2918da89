"""How far a failed run goes for its next attempt: to the same nodes, to others, or from node to node. Pure.

1. What is a process's trouble is answered where it was: the node's memory has the state, and a process costs seconds.
2. A node is left, where another is free, that is at fault itself, or whose processes fail again (`_again`).
3. Where failure after failure points at no machine, free nodes take one place after the other.

Where the state comes from is the next attempt's to find: the newest that every rank has.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from orchestrator.control.causes import Cause
from orchestrator.control.incidents import open_incidents, speaks_of_all
from orchestrator.control.placement import GOOD_STANDING
from orchestrator.control.state import Fault, Incident, RunState
from orchestrator.control.verdicts import VERDICTS
from orchestrator.records.nodes import Standing

MANY_STRIKES = 2
"""A machine that has as many from before is left at the first trouble of a process there."""


def to_leave(state: RunState, standings: Mapping[str, Standing]) -> frozenset[str]:
    """Machines that the next attempt is to be without, where others are free."""
    return frozenset(
        machine
        for incident in open_incidents(state)
        for machine, leaves in _accused(state, incident).items()
        if leaves or _again(state, machine) or standings.get(machine, GOOD_STANDING).strikes >= MANY_STRIKES
    )


def turn(state: RunState) -> int | None:
    """How often nodes have changed in turn for the present trouble; None where it points at a machine, or may be over with a restart."""
    row = list(itertools.takewhile(_points_nowhere, reversed(_recent(state))))
    return len(row) - 2 if len(row) > 1 and row[0].recovered_after_s is None else None


def _accused(state: RunState, incident: Incident) -> dict[str, bool]:
    """Machines that the incident was seen on, unless as a victim or as all others say too; and whether the fault is the machine's own.

    On a run of one node nobody is there who could say else.
    """
    assert state.terms is not None
    found: dict[str, bool] = {}
    for fault in incident.faults:
        verdict, is_of_all = VERDICTS[fault.cause], speaks_of_all(fault, state.terms)
        may_be_its_own = not is_of_all or state.terms.num_nodes == 1
        if fault.machine is not None and not _is_nowhere(fault) and may_be_its_own:
            found[fault.machine] = found.get(fault.machine, False) or (verdict.leaves and not is_of_all)
    return found


def _again(state: RunState, machine: str) -> bool:
    return sum(machine in _accused(state, one) for one in _recent(state)) > 1


def _recent(state: RunState) -> list[Incident]:
    """What has happened in this recovery, or since the last checkpoint: who only gets on from snapshot to snapshot has to try else."""
    since = [one for one in state.incidents if one.attempt > state.resumed_after_attempt and one.cause is not Cause.LEAVING]
    return [one for one in since if one.recovered_after_s is None or one.at_step >= state.committed_step]


def _points_nowhere(incident: Incident) -> bool:
    return all(map(_is_nowhere, incident.faults))


def _is_nowhere(fault: Fault) -> bool:
    """It says nothing of where the trouble is: where a worker vanishes, peers on every node lose it, or are aborted by their watchdogs."""
    is_victim = fault.cause is Cause.PEER_LOST or (fault.cause is Cause.ABORTED and fault.num_nodes > 1)
    return fault.machine is None or is_victim
