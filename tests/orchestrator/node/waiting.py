"""Waiting for what processes do, and what to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.messages import Phase, WorkerReport

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str, *, timeout_s: float = 60.0) -> T:
    """What `look` returns once it is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found


def is_over(worker: WorkerReport) -> bool:
    return worker.exit_code is not None


def is_training(worker: WorkerReport) -> bool:
    return worker.phase is Phase.TRAINING
