"""A dashboard for Grafana and alert rules for Prometheus over what `exposition` exports, as JSON-ready values. Pure.

Both are files to provision: the dashboard has a fixed uid and asks for its data source; the rules are YAML's JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

UID = "braid-runs"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, WIDTH, HEIGHT = 2, 12, 8
ALIVE = 'braid_run_state{state=~"starting|running|recovering"}'
TRAINS = 'on (run) braid_run_state{state="running"} == 1'


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    title: str
    queries: tuple[tuple[str, str], ...]
    """(expression, legend)."""
    unit: str = "short"
    kind: str = "timeseries"
    stacked: bool = False


PANELS = (
    Panel(title="State", kind="state-timeline", queries=(('braid_run_state{run=~"$run"} == 1', "{{run}} {{state}}"),)),
    Panel(title="Alerts, and incidents by cause", queries=(
        ('braid_run_alerts{run=~"$run"}', "{{run}} alerts"),
        ('braid_run_incidents_total{run=~"$run"}', "{{run}} {{cause}}"),
    )),
    Panel(title="Time since the last step", unit="s", queries=(
        ('time() - braid_run_last_step_timestamp_seconds{run=~"$run"}', "{{run}}"),
    )),
    Panel(title="Step, and the newest checkpoint", queries=(
        ('braid_run_step{run=~"$run"}', "{{run}} step"),
        ('braid_run_committed_step{run=~"$run"}', "{{run}} checkpoint"),
    )),
    Panel(title="Loss", queries=(
        ('braid_run_loss{run=~"$run"}', "{{run}}"),
        ('braid_run_eval_loss{run=~"$run"}', "{{run}} held out"),
    )),
    Panel(title="Gradient norm", queries=(('braid_run_grad_norm{run=~"$run"}', "{{run}}"),)),
    Panel(title="Tokens per second", queries=(('braid_run_tokens_per_second{run=~"$run"}', "{{run}}"),)),
    Panel(title="Waiting for data", unit="percentunit", queries=(('braid_run_data_wait_ratio{run=~"$run"}', "{{run}}"),)),
    Panel(title="Time by class", unit="s", stacked=True, queries=(
        ('sum by (class) (braid_run_time_seconds_total{run=~"$run"})', "{{class}}"),
    )),
    Panel(title="Goodput", unit="percentunit", queries=(('braid_run_goodput_ratio{run=~"$run"}', "{{run}}"),)),
    Panel(title="Recovery, half and nine tenths within", unit="s", queries=(
        ('histogram_quantile(0.5, sum by (le) (braid_recovery_duration_seconds_bucket{run=~"$run"}))', "half"),
        ('histogram_quantile(0.9, sum by (le) (braid_recovery_duration_seconds_bucket{run=~"$run"}))', "nine tenths"),
    )),
    Panel(title="Spares, standbys, strikes", queries=(
        ('braid_run_spares{run=~"$run"}', "{{run}} spares"),
        ('braid_run_standbys{run=~"$run"}', "{{run}} standbys"),
        ('braid_node_strikes{run=~"$run"}', "{{machine}} strikes"),
    )),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """For Grafana's provisioning, or its import."""
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {
            "name": "run",
            "type": "query",
            "datasource": DATASOURCE,
            "query": "label_values(braid_run_info, run)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
        },
    ]
    attempts = {
        "name": "attempts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": 'changes(braid_run_attempt{run=~"$run"}[1m]) > 0',
        "titleFormat": "{{run}}: another attempt",
    }
    return {
        "uid": UID,
        "title": "braid runs",
        "tags": ["braid"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "annotations": {"list": [attempts]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 40} if panel.stacked else {}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": {"x": WIDTH * (number % COLUMNS), "y": HEIGHT * (number // COLUMNS), "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    name: str
    expr: str
    holds_for: str
    severity: str
    summary: str
    command: str


RULES = (
    Rule(
        name="BraidRunFailed",
        expr='braid_run_state{state="failed"} == 1',
        holds_for="0m",
        severity="critical",
        summary="{{ $labels.run }} has failed",
        command="braid status {{ $labels.run }}",
    ),
    Rule(
        name="BraidRunGone",
        expr=f"last_over_time({ALIVE}[1h]) == 1 unless on (run) braid_run_info",
        holds_for="2m",
        severity="critical",
        summary="{{ $labels.run }} was alive, and nothing tells of it any more: its controller or the head is gone",
        command="braid status {{ $labels.run }}",
    ),
    Rule(
        name="BraidControllerStands",
        expr=f"time() - braid_run_seen_timestamp_seconds > 120 and on (run) ({ALIVE} == 1)",
        holds_for="1m",
        severity="critical",
        summary="the controller of {{ $labels.run }} has not looked at its cluster for two minutes: is the store away?",
        command="braid doctor",
    ),
    Rule(
        name="BraidRunStuck",
        expr=f"time() - braid_run_last_step_timestamp_seconds > 300 and {TRAINS}",
        holds_for="1m",
        severity="critical",
        summary="{{ $labels.run }} has made no step for five minutes",
        command="braid status {{ $labels.run }}",
    ),
    Rule(
        name="BraidRunRecovering",
        expr='braid_run_state{state="recovering"} == 1',
        holds_for="10m",
        severity="critical",
        summary="{{ $labels.run }} has been recovering for ten minutes",
        command="braid incidents {{ $labels.run }}",
    ),
    Rule(
        name="BraidLossNotFinite",
        expr="braid_run_loss != braid_run_loss or abs(braid_run_loss) == +Inf",
        holds_for="0m",
        severity="warning",
        summary="the loss of {{ $labels.run }} is no number",
        command="braid status {{ $labels.run }}",
    ),
    Rule(
        name="BraidPaceLow",
        expr="braid_run_tokens_per_second < 0.7 * quantile_over_time(0.5, braid_run_tokens_per_second[6h])",
        holds_for="10m",
        severity="warning",
        summary="{{ $labels.run }} is slower than it was",
        command="braid status {{ $labels.run }}",
    ),
    Rule(
        name="BraidGoodputLow",
        expr="braid_run_goodput_ratio < 0.5",
        holds_for="1h",
        severity="warning",
        summary="the goodput of {{ $labels.run }} is {{ $value | humanizePercentage }}",
        command="braid goodput {{ $labels.run }}",
    ),
    Rule(
        name="BraidCheckpointsBehind",
        expr=f"(braid_run_step - braid_run_committed_step) > 3 * braid_run_checkpoint_interval_steps and {TRAINS}",
        holds_for="5m",
        severity="warning",
        summary="{{ $labels.run }} has not had a checkpoint for three intervals",
        command="braid doctor",
    ),
    Rule(
        name="BraidNodeCordoned",
        expr="braid_node_cordoned == 1",
        holds_for="0m",
        severity="info",
        summary="{{ $labels.machine }} is out of use",
        command="braid nodes",
    ),
)


def rules() -> dict[str, Any]:
    """A file of Prometheus' rules."""
    return {"groups": [{"name": "braid", "rules": [_rule(rule) for rule in RULES]}]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "alert": rule.name,
        "expr": rule.expr,
        "for": rule.holds_for,
        "labels": {"severity": rule.severity},
        "annotations": {"summary": rule.summary, "command": rule.command},
    }
