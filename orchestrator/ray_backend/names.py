"""The names that braid's actors have in Ray; those of agents are in `fleet.names`. Pure."""

from __future__ import annotations

from orchestrator.identity import RunIdentity

NAMESPACE = "braid"
CONTROLLER = "braid-controller/"


def controller_name(run: RunIdentity) -> str:
    return f"{CONTROLLER}{run}"


def run_of_controller(name: str) -> RunIdentity | None:
    """The inverse of `controller_name`; None for any other actor."""
    run, _, drawn = name.removeprefix(CONTROLLER).partition("@")
    return RunIdentity(name=run, id=drawn) if name.startswith(CONTROLLER) else None
