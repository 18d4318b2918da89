"""Where a process of braid on a node writes what it logs."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES = 16 * 2**20
"""A full log becomes `.1`, over the one before: a run of months can't fill the disk."""


def start_log_file(path: Path, *, max_bytes: int = LOG_BYTES) -> None:
    """What this process logs goes to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=max_bytes, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for room in ("orchestrator", "data_pipeline"):
        logging.getLogger(room).addHandler(handler)
        logging.getLogger(room).setLevel(logging.INFO)
