"""The page over HTTP: what is served to whom, and what is not."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from launch.config.storage import storage_of
from launch.runs.record import read_run, recorded_status
from launch.ui.access import access_for
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, RUNNING, put_checkpoint, put_steps, status_of, stored_run
from tests.launch.ui.serving import FakeController, ask, serving, streaming


def test_the_page_and_its_files_come_with_a_policy_that_allows_nothing_foreign(tmp_path: Path) -> None:
    with serving(storage_of(str(tmp_path))) as port:
        for path in ("/", "/run/first", "/static/main.js", "/static/vendor/uPlot.iife.min.js", "/static/vendor/uPlot.LICENSE", "/api/runs"):
            answer = ask(port, path)
            policy = answer.headers["Content-Security-Policy"]
            assert answer.status == 200, path
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "<script>" not in ask(port, "/").text
        assert ask(port, "/static/main.js").headers["Content-Type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2f..%2fcli.py", "/static//etc/passwd", "/../../etc/passwd",
        "/api/run/..%2ffirst", "/api/run/..%2f..%2fnodes/log", "/api/run/%2e%2e/checkpoints", "/api/run/a%00b", "/api/run/first%2fjournal",
        "/api/run/nowhere", "/api/run/nowhere/events", "/api/run/nowhere/log", "/api/run/nowhere/ranks", "/api/run/nowhere/curves",
        "/nothing",
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_in_one_line(path: str, tmp_path: Path) -> None:
    stored_run(tmp_path, FINISHED, "train.num_steps=40")
    with serving(storage_of(str(tmp_path))) as port:
        answer = ask(port, path)
    assert answer.status == 404
    assert answer.text.count("\n") == 1
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "root:" not in answer.text


def test_an_unknown_run_is_answered_as_every_command_does(tmp_path: Path) -> None:
    stored_run(tmp_path, FINISHED, "train.num_steps=40")
    with serving(storage_of(str(tmp_path))) as port:
        assert "did you mean first?" in ask(port, "/api/run/fisrt").text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_only_reads(method: str, tmp_path: Path) -> None:
    with serving(storage_of(str(tmp_path))) as port:
        assert ask(port, "/api/runs", method=method).status == 405
        assert ask(port, "/", method="HEAD").status == 200


def test_a_foreign_name_for_its_address_is_refused(tmp_path: Path) -> None:
    with serving(storage_of(str(tmp_path))) as port:
        assert ask(port, "/api/runs", headers={"Host": f"evil.example:{port}"}).status == 421
        assert ask(port, "/api/runs", headers={"Host": f"localhost:{port}"}).status == 200


def test_without_the_token_nothing_is_served(tmp_path: Path) -> None:
    stored_run(tmp_path, FINISHED, "train.num_steps=40")
    access = access_for("127.0.0.1", "secret")
    with serving(storage_of(str(tmp_path)), access=access) as port:
        paths = (
            "/",
            "/static/main.js",
            "/api/runs",
            "/api/run/first",
            "/api/run/first/events",
            "/api/run/first/log",
            "/nothing",
            "/?token=wrong",
        )
        for path in paths:
            assert ask(port, path).status == 401, path
            assert "first" not in ask(port, path).text
        assert ask(port, "/api/runs", headers={"Authorization": "Bearer secret"}).status == 200


def test_the_address_with_the_token_leaves_it_in_a_cookie_and_in_no_address(tmp_path: Path) -> None:
    access = access_for("127.0.0.1", "secret")
    with serving(storage_of(str(tmp_path)), access=access) as port:
        answer = ask(port, "/run/first?token=secret&x=1")
        assert (answer.status, answer.headers["Location"]) == (303, "/run/first?x=1")
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert ask(port, "/api/runs", headers={"Cookie": cookie.partition(";")[0]}).status == 200


def test_every_number_is_that_of_status_and_of_the_ledger(tmp_path: Path, braid: Braid) -> None:
    config = stored_run(braid.root, FINISHED, "train.num_steps=40")
    put_steps(braid.root, 1, range(1, 34))
    put_steps(braid.root, 2, range(21, 41), grad_norm=0.1 + 0.2)
    put_checkpoint(braid.root, config, attempt=2, step=40)
    with serving(storage_of(str(braid.root))) as port:
        page, runs = ask(port, "/api/run/first").plain, ask(port, "/api/runs").plain
        goodput, incidents = ask(port, "/api/run/first/goodput").plain, ask(port, "/api/run/first/incidents").plain
        curves, checkpoints = ask(port, "/api/run/first/curves").plain["curves"], ask(port, "/api/run/first/checkpoints").plain
    assert page["status"] == json.loads(braid("status", "first", "--json").out)
    (listed,) = json.loads(braid("runs", "--json").out)
    assert {key: value for key, value in runs["runs"][0].items() if key != "left_s"}.items() <= listed.items()
    assert checkpoints == json.loads(braid("checkpoints", "first", "--json").out)
    assert json.loads(braid("goodput", "first", "--json").out).items() <= goodput.items()
    assert incidents == json.loads(braid("incidents", "first", "--json").out)
    assert curves["loss"] == {"x": [*map(float, range(1, 41))], "y": [9.0 - step / 10 for step in range(1, 41)]}
    assert curves["grad_norm"]["y"] == [1.0] * 20 + [0.1 + 0.2] * 20, "of steps that were trained again, the newest counts"
    assert page["newest_record"]["grad_norm"] == 0.1 + 0.2


def test_a_stream_begins_with_the_state_and_goes_on_with_what_is_new(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    controller = FakeController(status_of(tmp_path, step=21, live=True, seen_s_ago=0.1))
    with serving(storage_of(str(tmp_path)), controller.find, heartbeat_s=0.3) as port, streaming(port, "/api/run/first/events") as events:
        kind, said = next(events)
        assert (kind, said["state"]["status"]["step"]) == ("state", 21)
        controller.now = status_of(tmp_path, step=21, live=True, seen_s_ago=0.2)
        assert next(events)[0] == "still", "an age that grows is no news"
        controller.now = status_of(tmp_path, step=22, live=True)
        kind, said = next((kind, said) for kind, said in events if kind == "state")
        assert said["state"]["status"]["step"] == 22


def test_a_hundred_pages_cost_the_controller_one_look(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    controller = FakeController(status_of(tmp_path, step=21, live=True))
    with serving(storage_of(str(tmp_path)), controller.find, poll_s=60.0) as port:
        for _ in range(100):
            with streaming(port, "/api/run/first/events") as events:
                assert next(events)[0] == "state"
    assert controller.asked == 1


def test_a_controller_that_takes_its_time_holds_up_nobody_else(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    stored_run(tmp_path, FINISHED, "name=other", "train.num_steps=40")
    asked, let_go = threading.Event(), threading.Event()

    class Slow(FakeController):
        def status(self, page: int = 1) -> dict[str, Any]:
            asked.set()
            let_go.wait(20.0)
            return super().status(page)

    slow = Slow(status_of(tmp_path, step=21, live=True))
    with serving(storage_of(str(tmp_path)), slow.find) as port, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, port, "/api/run/first")
        assert asked.wait(20.0)
        assert [ask(port, path).status for path in ("/", "/api/runs", "/api/run/other")] == [200] * 3
        assert not waiting.done()
        let_go.set()
        assert waiting.result(20.0).plain["status"]["step"] == 21


def test_of_many_runs_that_were_looked_at_those_that_nobody_follows_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.ui.server.MAX_KEPT", 2)
    for name in "abc":
        stored_run(tmp_path, RUNNING, f"name={name}", "train.num_steps=40")
    controller = FakeController(recorded_status(read_run(storage_of(str(tmp_path)), "a"), 100.0) | {"live": True})
    with serving(storage_of(str(tmp_path)), controller.find, poll_s=60.0) as port, streaming(port, "/api/run/a/events") as events:
        next(events)
        for name in "bcbc":
            ask(port, f"/api/run/{name}")
        assert controller.asked == 5, "b and c were read twice, a once"
        ask(port, "/api/run/a")
        assert controller.asked == 5, "which is followed"


def test_a_run_whose_controller_falls_silent_is_shown_from_the_store(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    controller = FakeController(None)
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        page = ask(port, "/api/run/first").plain
    assert not page["status"]["live"]
    assert "no controller answers" in page["status"]["reason"]
    assert page["command"]["command"].startswith("braid resume first --storage ")


def test_a_log_line_is_text_and_a_search_finds_it(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    controller = FakeController(
        status_of(tmp_path, step=21, live=True),
        log=b"one\n<script>alert(1)</script>\nTraceback (most recent call last):\n  x\nValueError: no\n",
    )
    with serving(storage_of(str(tmp_path)), controller.find) as port:
        found = ask(port, "/api/run/first/log?rank=1&search=SCRIPT")
        assert found.headers["Content-Type"] == "application/json; charset=utf-8"
        assert found.plain["lines"] == [{"number": 2, "text": "<script>alert(1)</script>"}]
        assert found.plain["first_error"] == {"number": 3, "text": "ValueError: no"}, "where its traceback begins, and what it comes to"
        assert ask(port, "/api/run/first/log?rank=7").status == 404
        assert ask(port, "/api/run/first/log?rank=x").status == 400


def test_a_store_that_is_away_is_told_and_what_was_seen_stays(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING, "train.num_steps=40")
    controller = FakeController(status_of(tmp_path, step=21, live=True))
    with serving(storage_of(str(tmp_path)), controller.find) as port, streaming(port, "/api/run/first/events") as events:
        next(events)
        (tmp_path / "runs" / "first" / "journal" / "000000000003.json").write_text("{")
        stored_run_goes_on = tmp_path / "runs" / "first" / "journal" / "000000000099.json"
        stored_run_goes_on.write_text("{}")
        _, said = next((kind, said) for kind, said in events if kind == "state")
    assert "000000000003.json is not JSON" in said["state"]["trouble"]
    assert said["state"]["status"]["step"] == 21
