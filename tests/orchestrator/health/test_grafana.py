"""A dashboard and rules that ask for nothing which is not exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.health.exposition import exported_names
from orchestrator.health.grafana import PANELS, RULES, UID, dashboard, rules

PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="PROMTOOL IS NOT INSTALLED (Debian's package prometheus)")
QUERIES = [query for panel in PANELS for query, _ in panel.queries]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bbraid_[a-z0-9_]+", expression))


@pytest.mark.parametrize("expression", [*QUERIES, *(rule.expr for rule in RULES)])
def test_every_metric_that_is_asked_for_is_exported(expression: str):
    assert metrics_in(expression)
    assert metrics_in(expression) <= exported_names()


def test_nothing_in_the_files_names_another():
    text = json.dumps([dashboard(), rules()]).replace(UID, "")
    assert metrics_in(text) <= exported_names()


def test_panels_stand_beside_each_other_and_ask_for_the_chosen_runs():
    board = dashboard()
    assert (board["uid"], [one["name"] for one in board["templating"]["list"]]) == ("braid-runs", ["datasource", "run"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in board["panels"]})
    assert all('{run=~"$run"}' in query for query in QUERIES)


@PROMTOOL
def test_prometheus_takes_the_rules(tmp_path: Path):
    (tmp_path / "rules.yaml").write_text(json.dumps(rules()))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"SUCCESS: {len(RULES)} rules found" in done.stdout


@PROMTOOL
def test_the_rules_fire_for_what_they_are_for(tmp_path: Path):
    """A run that trains, one that stands still, and one whose controller is gone after ten minutes."""
    (tmp_path / "rules.yaml").write_text(json.dumps(rules()))
    states = [(f'braid_run_state{{run="{run}", state="running"}}', "1x40") for run in ("well", "stuck")]
    series = [
        *states,
        ('braid_run_info{run="well"}', "1x40"),
        ('braid_run_info{run="stuck"}', "1x40"),
        ('braid_run_last_step_timestamp_seconds{run="well"}', "0+60x40"),
        ('braid_run_last_step_timestamp_seconds{run="stuck"}', "0x40"),
        ('braid_run_state{run="gone", state="running"}', "1x10 stale"),
        ('braid_run_info{run="gone"}', "1x10 stale"),
        ('braid_run_loss{run="well"}', " ".join(["NaN"] * 41)),
        ('braid_run_state{run="over", state="running"}', "1x9 0 stale"),
        ('braid_run_info{run="over"}', "1x10 stale"),
    ]
    expected = {
        "BraidRunStuck": {"run": "stuck"},
        "BraidRunGone": {"run": "gone", "state": "running"},
        "BraidLossNotFinite": {"run": "well"},
        "BraidRunFailed": None,
    }
    severities = {rule.name: rule.severity for rule in RULES}
    summaries = {rule.name: (rule.summary, rule.command) for rule in RULES}
    told = [
        {
            "eval_time": "20m",
            "alertname": name,
            "exp_alerts": []
            if labels is None
            else [
                {
                    "exp_labels": {**labels, "severity": severities[name]},
                    "exp_annotations": {
                        key: text.replace("{{ $labels.run }}", labels["run"])
                        for key, text in zip(("summary", "command"), summaries[name], strict=True)
                    },
                }
            ],
        }
        for name, labels in expected.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series]
    tests = {"rule_files": ["rules.yaml"], "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": told}]}
    (tmp_path / "tests.yaml").write_text(json.dumps(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
