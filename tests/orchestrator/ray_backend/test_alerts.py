"""A real run whose troubles are told to a real webhook, by a controller that is killed in between; and where its secrets are not."""

from __future__ import annotations

import os
import signal
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from orchestrator import codec
from orchestrator.alerts_config import AlertsConfig, MetricsConfig
from orchestrator.control.state import Ending
from tests.orchestrator.alerting.receiving import TOKEN, FakeReceiver, receiving
from tests.orchestrator.alerting.test_metrics_server import free_port
from tests.orchestrator.node.waiting import wait_for
from tests.orchestrator.ray_backend.fake_runs import FakeRun, submit

pytestmark = [pytest.mark.usefixtures("cluster")]


def told_of(run: FakeRun, hook: Path, port: int, home: Path) -> FakeRun:
    """The same run, whose configuration says who is told."""
    (home / "token").write_text(f"metrics-{TOKEN}\n")
    alerts = AlertsConfig(webhooks=(f"file:{hook}",), slack=(f"file:{hook}-missing",), heartbeat=f"file:{hook}", heartbeat_every_s=0.2)
    config = replace(run.config, alerts=alerts, metrics=MetricsConfig(port=port, token=f"file:{home}/token"))
    run.store.put("config/0001.json", codec.to_json(config))
    return replace(run, config=config)


def scraped(port: int) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer metrics-{TOKEN}"})
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        return str(answer.read().decode())


def test_each_trouble_is_told_once_although_the_controller_dies_and_no_secret_is_left_anywhere(tmp_path: Path, home: Path):
    with receiving() as server:
        told_once(tmp_path, home, server)
        texts = {path: path.read_bytes() for root in (tmp_path / "store", home) for path in root.rglob("*") if path.is_file()}
    left = [path for path, data in texts.items() if TOKEN.encode() in data and path != home / "token"]
    assert left == []
    assert any(path.name == "controller.log" for path in texts)
    assert any("alerts/journal" in str(path) for path in texts)


def told_once(tmp_path: Path, home: Path, server: FakeReceiver) -> None:
    (tmp_path / "hook").write_text(server.url)
    port = free_port()
    run = told_of(submit(tmp_path / "store", "told"), tmp_path / "hook", port, home)
    handle = run.start()
    victim = run.wait_for_step(11)["workers"][1]

    os.kill(victim["pid"], signal.SIGKILL)
    wait_for(lambda: run.state().incidents, "the failure to be noticed")
    os.kill(ray.get(handle.ping.remote()), signal.SIGKILL)
    wait_for(lambda: run.state().epoch == 2, "the second controller")
    run.wait_for_step(1, attempt=2)
    wait_for(lambda: any(alert["state"] == "over" for alert in server.alerts), "the end of the incident to be told")

    trouble = f"alerts: slack file:{tmp_path}/hook-missing takes no message: "
    status = wait_for(
        lambda: (now := run.status()) and any(line.startswith(trouble) for line in now["alerts"]) and now, "the dead receiver"
    )
    assert TOKEN not in str(status)
    text = scraped(port)
    assert 'braid_run_incidents_total{run="told",cause="killed"} 1' in text
    assert TOKEN not in text
    wait_for(lambda: ("GET", f"/services/{TOKEN}?key={TOKEN}") in server.asked, "a heartbeat")

    assert run.let_finish().ending is Ending.FINISHED
    told = [(alert["kind"], alert["state"]) for alert in server.alerts]
    assert told in (
        [("incident", "began"), ("incident", "over"), ("ended", "began")],
        [("incident", "over"), ("ended", "began")],
    ), "or it was over when the webhook took it"
    incident = server.alerts[0]
    assert (incident["cause"], incident["rank"], incident["node"]) == ("killed", 1, victim["node"])
