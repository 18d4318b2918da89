"""The names of braid's actors, by which the controller, its agents and the command line find each other. Pure."""

from __future__ import annotations

NAMESPACE = "braid"


def controller_name(run: str) -> str:
    return f"braid-controller/{run}"


def agent_name(run: str, attempt: int, node: str) -> str:
    return f"{attempt_prefix(run, attempt)}{node}"


def agent_prefix(run: str) -> str:
    """What the names of a run's agents, of every attempt, begin with."""
    return f"braid-agent/{run}/"


def attempt_prefix(run: str, attempt: int) -> str:
    """What the names of an attempt's agents begin with."""
    return f"{agent_prefix(run)}{attempt}/"
