"""The names that braid's actors have in Ray; those of agents are in `fleet.names`. Pure."""

from __future__ import annotations

from orchestrator.identity import RunIdentity

NAMESPACE = "braid"


def controller_name(run: RunIdentity) -> str:
    return f"braid-controller/{run}"
