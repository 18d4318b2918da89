"""Where braid keeps its files on a node."""

from __future__ import annotations

import os
from pathlib import Path


def home_directory() -> Path:
    return Path(os.environ.get("BRAID_HOME") or "~/.braid").expanduser().absolute()


def run_directory(run: str) -> Path:
    return home_directory() / "runs" / run
