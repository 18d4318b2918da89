"""Waiting for what processes do, and what to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.messages import AgentReport, Phase, WorkerReport
from orchestrator.node.agent import Agent

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


def report_when(agent: Agent, condition: Callable[[AgentReport], bool]) -> AgentReport:
    """The first report that meets the condition, by waiting for news only."""

    def look() -> AgentReport | None:
        version, report = agent.report()
        if condition(report):
            return report
        agent.wait_for_news(version, 5.0)
        return None

    return wait_for(look, "the report")


def trains(attempt: int, *, num_workers: int = 1) -> Callable[[AgentReport], bool]:
    """All workers of the attempt do."""
    return lambda report: report.attempt == attempt and sum(map(is_training, report.workers)) == num_workers
