"""A step's metrics with one field more, followed from the training step to the printed line. Run as a program, without torch.

Only the class in `model.train.metrics` is replaced, before anything else is imported: what a person would edit.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field

from model.train import metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class WithEntropy(metrics.StepMetrics):
    """One field more."""

    entropy: float = field(default=0.0, metadata={metrics.STATUS: "entropy {:.2f}", metrics.LOG: "entropy {:.3f}"})


def main() -> None:
    metrics.StepMetrics = WithEntropy  # type: ignore[misc]
    measured = WithEntropy(loss=2.5, grad_norm=1.0, tokens=64, entropy=0.125)
    print("log:", "  ".join(metrics.log_words(measured)))
    report_and_show(measured)
    record_and_show(measured)


def report_and_show(measured: WithEntropy) -> None:
    """A worker's beat, its agent's report, and what people see of it."""
    from launch.show.follow import status_line
    from orchestrator.control.cluster import AgentSeen, Observation
    from orchestrator.control.summary import summarise
    from orchestrator.messages import AgentReport, decode
    from orchestrator.node.tracked import aged, heard, track
    from orchestrator.worker.reporter import Reporter

    reading, writing = os.pipe()
    reporter = Reporter(writing)
    reporter.finished(7, measured, tokens_per_s=100.0)
    reporter.start()
    reporter.close()
    os.close(writing)
    beat = decode(os.fdopen(reading, "rb").read().splitlines()[-1])
    print("beat:", beat)
    report = aged(heard(track(0, 1, 0.0), beat, 1.0), 2.0)
    print("report:", report.metrics)
    agent = AgentSeen(node="a", report=AgentReport(node="a", attempt=1, workers=(report,)), summary=summarise((report,)))
    seen = Observation(at_s=9.0, nodes=(), agents=(agent,))
    status = status_of(seen, None)
    print("status:", status)
    print("line:", status_line(status))
    print("view:", facts_of(status))


def record_and_show(measured: WithEntropy) -> None:
    """The step ledger, and what people see of it once the cluster is gone."""
    from model.parallel.config import ParallelConfig
    from orchestrator.records.ledger import StepRecord, build_ledger, read_ledger
    from tests.fakes.memory_store import MemoryStore

    store = MemoryStore()
    ledger = build_ledger(store, attempt=1)
    ledger.append(StepRecord(step=7, attempt=1, samples="", layout=ParallelConfig(), deterministic=True, setting="", **asdict(measured)))
    ledger.close()
    print("ledger:", *store.objects.values())
    print("recorded:", status_of(None, read_ledger(store)[1][-1]))


def status_of(seen: object, recorded: object) -> dict[str, object]:
    from pathlib import Path

    from orchestrator.control.state import RunState
    from orchestrator.control.status import build_status
    from tests.orchestrator.worker.tiny_run import tiny_config

    return build_status("first", tiny_config(Path("/nowhere")), RunState(attempt=1), seen, 10.0, recorded)  # type: ignore[arg-type]


def facts_of(status: dict[str, object]) -> str:
    from io import StringIO

    from rich.console import Console

    from launch.show.render import progress_line

    console = Console(file=(output := StringIO()), width=120)
    console.print(progress_line(status))
    return output.getvalue().strip()


if __name__ == "__main__":
    main()
