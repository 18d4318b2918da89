"""What Prometheus reads: checked by a parser that takes nothing but the format, and by Prometheus' own tool where it is installed."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from model.train.metrics import StepMetrics
from orchestrator.control.causes import Cause
from orchestrator.control.state import RunState
from orchestrator.control.status import build_status
from orchestrator.health.exposition import FAMILIES, Exposed, exported_names, exposition
from orchestrator.records.nodes import Standing
from tests.orchestrator.control.stories import agent, committed, failed, fault, gone, placed, play, rank, resumed, running, seen, stepped
from tests.orchestrator.health.looks import config_of, totals, trained

NAME = r"[a-z][a-z0-9_]*"
SAMPLE = re.compile(
    rf'({NAME})\{{({NAME}="(?:[^"\\\n]|\\["\\n])*"(?:,{NAME}="(?:[^"\\\n]|\\["\\n])*")*)\}} (NaN|[+-]Inf|-?\d+(?:\.\d+)?(?:e[+-]\d+)?)'
)
LABEL = re.compile(rf'({NAME})="((?:[^"\\\n]|\\["\\n])*)"')
RECOVERED = play(
    *running(),
    committed(1, 20),
    failed(1, fault(Cause.KILLED, "b"), at_step=33, at_s=50.0),
    gone(1),
    placed(2, "ac"),
    resumed(2, 20),
    stepped(2, 21, at_s=53.5),
)


def parsed(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels, of text that keeps the format: families in one piece, HELP and TYPE before their samples."""
    assert text.endswith("\n")
    families: dict[str, str] = {}
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    helped = family = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert helped not in families, f"{helped} comes in two pieces"
        elif line.startswith("# TYPE "):
            family, kind = line.split(" ")[2:]
            assert family == helped
            assert kind in ("gauge", "counter", "histogram")
            families[family] = kind
        else:
            match = SAMPLE.fullmatch(line) or pytest.fail(f"not a sample: {line!r}")
            suffixes = ("_bucket", "_sum", "_count") if families[family] == "histogram" else ("",)
            assert match[1] in [family + suffix for suffix in suffixes]
            labels = tuple(LABEL.findall(match[2]))
            assert len(dict(labels)) == len(labels)
            assert labels not in samples.setdefault(match[1], {}), f"{line} twice"
            samples[match[1]][labels] = float(match[3].replace("Inf", "inf"))
    return samples


def exposed(state: RunState, look=None, *, name: str = "first", alerts=(), **known) -> Exposed:
    config = replace(config_of(), name=name)
    status = build_status(name, config, state, look, 100.5, alerts=alerts)
    return Exposed(config=config, state=state, status=status, now_s=100.5, **known)


def values(text: str, name: str, label: str = "run") -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in parsed(text)[name].items()}


def test_a_run_that_trains():
    text = exposition([exposed(play(*running(), committed(1, 20)), replace(trained(33, quiet_s=2.0), at_s=100.0), alerts=["no nodes"])])
    for name, value in {
        "braid_run_step": 33, "braid_run_target_step": 100_000, "braid_run_committed_step": 20, "braid_run_loss": 2.0,
        "braid_run_tokens": 33 * 16, "braid_run_tokens_per_second": 16, "braid_run_attempt": 1, "braid_run_alerts": 1,
        "braid_run_last_step_timestamp_seconds": 98.0, "braid_run_seen_timestamp_seconds": 100.0, "braid_run_restarts_total": 0,
        "braid_run_checkpoint_interval_steps": 1000, "braid_run_workers": 2,
    }.items():  # fmt: skip
        assert values(text, name) == {"first": value}, name
    states = values(text, "braid_run_state", "state")
    assert [state for state, value in states.items() if value] == ["running"]
    assert len(states) == 8
    (labels,) = parsed(text)["braid_run_info"]
    assert dict(labels) == {"run": "first", "run_id": "", "layout": "dp_shard 2", "device": "cpu"}


def test_recoveries_are_a_histogram_and_failures_go_by_cause():
    samples = parsed(exposition([exposed(RECOVERED)]))
    buckets = [(dict(labels)["le"], value) for labels, value in samples["braid_recovery_duration_seconds_bucket"].items()]
    assert buckets[:4] == [("1", 0), ("2", 0), ("5", 1), ("10", 1)]
    assert buckets[-1] == ("+Inf", 1)
    assert [*samples["braid_recovery_duration_seconds_sum"].values()] == [3.5]
    assert {dict(labels)["cause"]: value for labels, value in samples["braid_run_incidents_total"].items()} == {"killed": 1}


def test_time_by_class_is_that_of_the_ledger():
    text = exposition([exposed(RECOVERED, totals=totals(100.0, productive=90.25, lost=9.75))])
    seconds = values(text, "braid_run_time_seconds_total", "class")
    assert (sum(seconds.values()), seconds["productive"], seconds["lost"]) == (100.0, 90.25, 9.75)
    gpu_seconds = values(text, "braid_run_gpu_seconds_total", "class")
    assert (gpu_seconds["productive"], gpu_seconds["spare"], gpu_seconds["missing"]) == (180.5, 3.0, 0.0)
    assert values(text, "braid_run_goodput_ratio") == {"first": 0.9025}
    assert "braid_run_time_seconds_total" not in exposition([exposed(RECOVERED)]), "nothing is known, so nothing is said"


def test_runs_stand_side_by_side_and_one_that_is_over_too():
    text = exposition([exposed(RECOVERED, name="one"), exposed(play(*running()), trained(5), name="other")])
    assert values(text, "braid_run_step") == {"one": 20, "other": 5}
    assert values(text, "braid_run_loss") == {"other": 2.0}


def test_numbers_that_are_none_and_names_that_could_break_a_line():
    nan = exposition([exposed(play(*running()), trained(5, loss=math.nan))])
    assert math.isnan(values(nan, "braid_run_loss")["first"])
    one = exposed(play(*running()), trained(5, loss=math.inf))
    evil = 'a"b\\c\nd 1\n# TYPE x'
    status = {**one.status, "strikes": {evil: 2}}
    (labels,) = parsed(exposition([replace(one, status=status)]))["braid_node_strikes"]
    assert dict(labels)["machine"] == 'a\\"b\\\\c\\nd 1\\n# TYPE x'


def test_every_family_has_a_sample_of_a_run_of_which_all_is_known():
    """So that what dashboards ask for is there."""
    metrics = StepMetrics(loss=2.0, grad_norm=1.5, tokens=16, eval_loss=2.5)
    worker = rank(0, step=33, metrics=metrics, tokens_per_s=16.0)
    standings = {"A": Standing(strikes=1), "B": Standing(cordoned="bad")}
    look = seen(agent("a", worker, attempt=2), standings=standings)
    text = exposition([exposed(RECOVERED, look, newest=metrics, totals=totals(3.0, productive=1.5))])
    assert set(parsed(text)) == exported_names()
    assert values(text, "braid_run_grad_norm") == {"first": 1.5}


def test_no_runs_are_an_empty_page():
    assert exposition([]) == ""


def test_names_keep_the_rules():
    for family in FAMILIES:
        assert family.name.startswith("braid_")
        assert family.help.endswith(".")
        assert family.kind != "counter" or family.name.endswith("_total")
        assert not re.search(r"_(ms|milliseconds|minutes|percent|kb|mb|gb)(_|$)", family.name)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert {"braid_recovery_duration_seconds_bucket", "braid_run_step"} < exported_names()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="PROMTOOL IS NOT INSTALLED (Debian's package prometheus)")
def test_prometheus_own_tool_reads_it():
    text = exposition([exposed(RECOVERED, trained(33, attempt=2), totals=totals(3.0, productive=1.5))])
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if "non-counter metrics should not have" not in line]
    assert told == [], "but for times by class, which are no counters: productive time may become lost"
