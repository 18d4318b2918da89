"""What the cluster is to look like. The cluster makes it so, again at every look: nothing is lost between a decision and its act. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.messages import Mode
from orchestrator.records.nodes import Finding


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
    """Workers of the attempt may not have been started yet: an agent that is missing is started. Where this is False, a missing agent is lost."""
    findings: tuple[Finding, ...] = ()
    """What the run's failures are to be remembered by in the registry of nodes."""
    wants_evidence: bool = False
    """Workers write down where they stand before they are killed."""
