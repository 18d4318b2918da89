"""`braid alerts test` and `braid metrics`."""

import json

import pytest

from orchestrator.health.grafana import dashboard, rules
from tests.launch.command_line import Braid
from tests.launch.stored_runs import RUNNING, stored_run
from tests.orchestrator.alerting.receiving import TOKEN, receiving


def test_every_receiver_of_a_recipe_is_told_and_answers(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as good, receiving() as bad:
        bad.answers.append(403)
        monkeypatch.setenv("GOOD", good.url)
        monkeypatch.setenv("BAD", bad.url)
        done = braid(
            "alerts", "test", "tiny", "alerts.webhooks=[env:GOOD]", "alerts.slack=[env:BAD, env:MISSING]", "alerts.commands=['false']"
        )
    assert done.status == 1
    assert done.err.splitlines() == [
        "webhook env:GOOD: took it: HTTP 200 OK",
        "slack env:BAD: DID NOT TAKE IT: HTTP 403 Forbidden",
        "slack env:MISSING: DID NOT TAKE IT: env:MISSING: is not set",
        "command false: DID NOT TAKE IT: exit status 1",
    ]
    assert TOKEN not in done.err + done.out
    (alert,) = good.alerts
    assert (alert["kind"], alert["severity"]) == ("test", "info")


def test_the_receivers_of_a_run_in_the_store(braid: Braid, monkeypatch: pytest.MonkeyPatch) -> None:
    stored_run(braid.root, RUNNING, "alerts.webhooks=[env:HOOK]")
    with receiving() as server:
        monkeypatch.setenv("HOOK", server.url)
        done = braid("alerts", "test", "first")
    assert (done.status, done.err) == (0, "webhook env:HOOK: took it: HTTP 200 OK\n")
    assert server.got[0]["run"] == "first"


def test_a_recipe_that_tells_nobody(braid: Braid) -> None:
    done = braid("alerts", "test", "tiny")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "tiny: tells nobody; set alerts.slack=[env:NAME]" in done.err


@pytest.mark.parametrize(
    "override", [f"alerts.slack=[https://hooks/{TOKEN}]", f"alerts.slack=https://hooks/{TOKEN}", f"alerts.heartbeat={TOKEN}"]
)
def test_an_address_in_the_place_of_its_place_is_one_line_that_does_not_tell_it(braid: Braid, override: str) -> None:
    done = braid("alerts", "test", "tiny", override)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert TOKEN not in done.err + done.out


def test_files_for_grafana_and_prometheus(braid: Braid) -> None:
    assert json.loads(braid("metrics", "dashboard").out) == dashboard()
    assert json.loads(braid("metrics", "rules").out) == rules()
