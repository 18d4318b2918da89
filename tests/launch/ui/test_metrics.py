"""Every run of a root for Prometheus, from the page's server."""

import json
import re
from dataclasses import replace
from pathlib import Path

from launch.config.storage import storage_of
from launch.runs.record import run_store_of
from launch.ui.access import access_for
from orchestrator.health.exposition import CONTENT_TYPE
from orchestrator.records.keys import journal_key, name_key
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, RUNNING, put_steps, status_of, store_at, stored_run
from tests.launch.ui.serving import FakeController, ask, serving


def value_of(text: str, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_the_numbers_are_those_of_the_status_and_of_goodput(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_steps(braid.root, 2, range(21, 41))
    with serving(storage_of(str(braid.root))) as port:
        answer = ask(port, "/metrics")
    status = json.loads(braid("status", "first", "--json").out)
    classes = json.loads(braid("goodput", "first", "--json").out)["classes"]
    assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert value_of(answer.text, 'braid_run_step{run="first"}') == status["step"] == 40
    assert value_of(answer.text, 'braid_run_loss{run="first"}') == status["loss"]
    assert value_of(answer.text, 'braid_run_state{run="first",state="finished"}') == 1
    assert value_of(answer.text, 'braid_run_incidents_total{run="first",cause="killed"}') == 1
    for name, took_s in classes.items():
        assert value_of(answer.text, f'braid_run_time_seconds_total{{run="first",class="{name}"}}') == took_s


def test_a_run_that_trains_is_told_as_its_controller_has_it(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    controller = FakeController(status_of(tmp_path, live=True, seen_s_ago=0.5, step=77, tokens_per_s=1234.0))
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        text = ask(port, "/metrics").text
    assert value_of(text, 'braid_run_step{run="first"}') == 77
    assert value_of(text, 'braid_run_tokens_per_second{run="first"}') == 1234


def test_a_run_that_can_not_be_read_hides_no_other(tmp_path: Path) -> None:
    stored_run(tmp_path, FINISHED, "train.num_steps=40")
    store = store_at(tmp_path)
    store.put(name_key("broken"), b"")
    run_store_of(store, "broken").put(journal_key(1), b"{")
    with serving(storage_of(str(tmp_path))) as port:
        text = ask(port, "/metrics").text
    assert value_of(text, 'braid_run_step{run="first"}') == 40
    assert "broken" not in text


def test_who_has_no_token_gets_nothing(tmp_path: Path) -> None:
    stored_run(tmp_path, FINISHED, "train.num_steps=40")
    access = replace(access_for("127.0.0.1"), token="secret")
    with serving(storage_of(str(tmp_path)), access=access) as port:
        assert ask(port, "/metrics").status == 401
        assert ask(port, "/metrics", headers={"Authorization": "Bearer secret"}).status == 200
