"""Names and paths that the controller, its agents and the command line have in common."""

from __future__ import annotations

import os
from pathlib import Path

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


def home_directory() -> Path:
    return Path(os.environ.get("BRAID_HOME") or "~/.braid").expanduser().absolute()


def run_directory(run: str) -> Path:
    return home_directory() / "runs" / run


def log_key(attempt: int, rank: int) -> str:
    """Of a worker's log, below the run's directory and below its prefix in the store."""
    return f"logs/a{attempt:04d}/rank-{rank:05d}.log"
