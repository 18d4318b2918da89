"""The names of a run's agents, by which a controller finds those that an earlier one started. Pure."""

from __future__ import annotations

from orchestrator.identity import RunIdentity


def agent_name(run: RunIdentity, node: str) -> str:
    return f"{agent_prefix(run)}{node}"


def agent_prefix(run: RunIdentity) -> str:
    """What the names of a run's agents begin with."""
    return f"braid-agent/{run}/"


def node_of(name: str) -> str | None:
    """The node of an agent; None for one of an earlier version of braid, which called them braid-agent/RUN/ATTEMPT/NODE."""
    parts = name.split("/")
    return parts[2] if len(parts) == 3 else None
