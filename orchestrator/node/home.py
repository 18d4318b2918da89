"""Where braid keeps its files on a node."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from data_pipeline.paths import expanded
from orchestrator.identity import RunIdentity
from orchestrator.records.keys import LOGS

KEPT_ATTEMPTS = 10
"""Attempts whose workers' logs stay on a node; the store has the end of all of them."""


def home_directory() -> Path:
    """Raises HomeUnknown."""
    return expanded(os.environ.get("BRAID_HOME") or "~/.braid")


def run_directory(run: RunIdentity) -> Path:
    return home_directory() / "runs" / str(run)


def prune_logs(run: RunIdentity) -> None:
    """Removes the logs of all but the run's newest attempts from this node. What can't be removed stays."""
    attempts = sorted((run_directory(run) / LOGS).glob("a*"), key=lambda path: (len(path.name), path.name))
    for path in attempts[:-KEPT_ATTEMPTS]:
        shutil.rmtree(path, ignore_errors=True)
