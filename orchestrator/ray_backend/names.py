"""The names that braid's actors have in Ray; those of agents are in `fleet.names`. Pure."""

from __future__ import annotations

NAMESPACE = "braid"


def controller_name(run: str) -> str:
    return f"braid-controller/{run}"
