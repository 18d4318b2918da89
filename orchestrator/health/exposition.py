"""Runs as Prometheus reads them: text in its exposition format, version 0.0.4. Pure.

A new metric is a line in FAMILIES. Names have base units; moments are timestamps, so that what is dead is seen to be; no step, process or
rank is a label.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.train.metrics import StepMetrics
from orchestrator.config import RunConfig
from orchestrator.control.state import RunState
from orchestrator.health.totals import Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("queued", "starting", "running", "recovering", "stopping", "finished", "failed", "stopped")
RECOVERY_BUCKETS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposed:
    """What is known of one run."""

    config: RunConfig
    state: RunState
    status: Mapping[str, Any]
    """As `braid status --json` has it, with the first page of workers."""
    now_s: float
    """The moment of the status, in seconds since the epoch."""
    newest: StepMetrics | None = None
    """What the last step measured, where that is known."""
    totals: Totals | None = None
    """Where its time went; None where that was not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    """Beside `run`."""
    suffix: str = ""
    """Of a histogram's parts."""


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    kind: str
    help: str
    samples: Callable[[Exposed], Iterable[Sample]]


def exposition(runs: Sequence[Exposed]) -> str:
    """Every family that has a sample, with those of all runs."""
    return "".join(block for family in FAMILIES if (block := _block(family, runs)))


def _block(family: Family, runs: Sequence[Exposed]) -> str:
    lines = [_line(family, run, sample) for run in runs for sample in family.samples(run)]
    if not lines:
        return ""
    return "\n".join([f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}", *lines]) + "\n"


def _line(family: Family, run: Exposed, sample: Sample) -> str:
    labels = (("run", run.config.name), *sample.labels)
    inside = ",".join(f'{name}="{_escaped(text, quote=True)}"' for name, text in labels)
    return f"{family.name}{sample.suffix}{{{inside}}} {_number(sample.value)}"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))


# --- samples -----------------------------------------------------------------------------------------------------------


def _status(*path: str) -> Callable[[Exposed], Iterator[Sample]]:
    """A number of the status; nothing where it has none."""

    def samples(run: Exposed) -> Iterator[Sample]:
        value: Any = run.status
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            yield Sample(value=float(value))

    return samples


def _by(label: str, of: Callable[[Exposed], Mapping[str, float]]) -> Callable[[Exposed], Iterator[Sample]]:
    """A sample for each entry."""

    def samples(run: Exposed) -> Iterator[Sample]:
        for name, value in sorted(of(run).items()):
            yield Sample(value=float(value), labels=((label, name),))

    return samples


def _info(run: Exposed) -> Iterator[Sample]:
    labels = (("run_id", run.state.run_id), ("layout", str(run.config.parallel)), ("device", run.config.resources.device))
    yield Sample(value=1.0, labels=labels)


def _last_step(run: Exposed) -> Iterator[Sample]:
    """Of whoever is furthest behind on the first page."""
    workers = run.status["workers"]
    if workers and run.status["seen_s_ago"] is not None:
        yield Sample(value=round(run.now_s - run.status["seen_s_ago"] - max(one["last_progress_s"] for one in workers), 1))


def _seen(run: Exposed) -> Iterator[Sample]:
    if run.status["seen_s_ago"] is not None:
        yield Sample(value=round(run.now_s - run.status["seen_s_ago"], 1))


def _recoveries(run: Exposed) -> Iterator[Sample]:
    took_s = [one.recovered_after_s for one in run.state.incidents if one.recovered_after_s is not None]
    for bound_s in (*RECOVERY_BUCKETS_S, math.inf):
        yield Sample(value=sum(one <= bound_s for one in took_s), labels=(("le", _number(bound_s)),), suffix="_bucket")
    yield Sample(value=sum(took_s), suffix="_sum")
    yield Sample(value=len(took_s), suffix="_count")


def _seconds(run: Exposed) -> dict[str, float]:
    return {one.value: took_s for one, took_s in run.totals.classes_s.items()} if run.totals else {}


def _gpu_seconds(run: Exposed) -> dict[str, float]:
    """With those of GPUs that were missing, or kept in reserve."""
    if run.totals is None:
        return {}
    held_s = {one.value: gpu_s for one, gpu_s in run.totals.gpu_s.items()}
    return {**held_s, "missing": run.totals.missing_gpu_s, "spare": run.totals.spare_gpu_s}


def _one(of: Callable[[Exposed], float | None]) -> Callable[[Exposed], Iterator[Sample]]:
    def samples(run: Exposed) -> Iterator[Sample]:
        value = of(run)
        if value is not None:
            yield Sample(value=float(value))

    return samples


FAMILIES = (
    Family("braid_run_info", "gauge", "A run and how it is laid out.", _info),
    Family(
        "braid_run_state",
        "gauge",
        "1 for the state that the run is in.",
        _by("state", lambda run: {name: name == run.status["state"] for name in STATES}),
    ),
    Family("braid_run_step", "gauge", "Last finished step.", _status("step")),
    Family("braid_run_target_step", "gauge", "Steps that the run is to have.", _status("num_steps")),
    Family("braid_run_tokens", "gauge", "Input tokens of all steps up to the last; goes back with it.", _status("tokens")),
    Family("braid_run_tokens_per_second", "gauge", "Speed over the last steps.", _status("tokens_per_s")),
    Family("braid_run_loss", "gauge", "Cross-entropy of the last step.", _status("loss")),
    Family(
        "braid_run_grad_norm",
        "gauge",
        "Gradient norm of the last step, before clipping.",
        _one(lambda run: run.newest.grad_norm if run.newest else None),
    ),
    Family("braid_run_eval_loss", "gauge", "Cross-entropy of held-out text, where the last step looked at it.", _status("eval_loss")),
    Family("braid_run_data_wait_ratio", "gauge", "Part of the time of the last steps that waited for data.", _status("data", "wait_share")),
    Family("braid_run_skipped_updates", "gauge", "Updates that this attempt left out.", _status("skipped_updates")),
    Family("braid_run_attempt", "gauge", "Number of the attempt.", _status("attempt")),
    Family("braid_run_workers", "gauge", "Workers that are known.", _status("num_workers")),
    Family("braid_run_spares", "gauge", "Nodes that the run could go to.", _status("spares")),
    Family("braid_run_standbys", "gauge", "Processes that stand by, ready.", _status("standbys")),
    Family("braid_run_committed_step", "gauge", "Step of the newest checkpoint that counts.", _status("last_committed_step")),
    Family(
        "braid_run_checkpoint_interval_steps", "gauge", "Steps between checkpoints.", _one(lambda run: run.config.checkpoint.every_steps)
    ),
    Family("braid_run_last_step_timestamp_seconds", "gauge", "When a rank last got anywhere that all wait for.", _last_step),
    Family("braid_run_seen_timestamp_seconds", "gauge", "When the controller last looked at the cluster.", _seen),
    Family("braid_run_alerts", "gauge", "Things that a person should see to.", _one(lambda run: len(run.status["alerts"]))),
    Family("braid_run_restarts_total", "counter", "Attempts after the first.", _one(lambda run: max(0, run.state.attempt - 1))),
    Family(
        "braid_run_incidents_total",
        "counter",
        "Failures by cause.",
        _by("cause", lambda run: Counter(one.cause.value for one in run.state.incidents)),
    ),
    Family("braid_recovery_duration_seconds", "histogram", "From noticing a failure to the next step.", _recoveries),
    Family(
        "braid_run_time_seconds_total",
        "gauge",
        "Time since the submission by class; a failure makes productive time lost.",
        _by("class", _seconds),
    ),
    Family("braid_run_gpu_seconds_total", "gauge", "The same times the GPUs.", _by("class", _gpu_seconds)),
    Family(
        "braid_run_goodput_ratio",
        "gauge",
        "Productive time of all but what a person stopped.",
        _one(lambda run: run.totals.goodput if run.totals else None),
    ),
    Family("braid_node_strikes", "gauge", "What is held against a machine.", _by("machine", lambda run: run.status["strikes"])),
    Family(
        "braid_node_cordoned",
        "gauge",
        "1 for a machine that is out of use.",
        _by("machine", lambda run: dict.fromkeys(run.status["cordoned"], 1)),
    ),
)


def exported_names() -> frozenset[str]:
    """Every name that a query may use."""
    parts = ("_bucket", "_sum", "_count")
    return frozenset(name for one in FAMILIES for name in ([one.name + part for part in parts] if one.kind == "histogram" else [one.name]))
