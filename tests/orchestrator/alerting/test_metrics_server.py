"""/metrics over real HTTP: who may read, and that nobody is kept waiting."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.alerting.metrics_server import MOST_SCRAPERS, CachedText, MetricsPort, MetricsServer
from orchestrator.alerts_config import MetricsConfig
from tests.orchestrator.node.waiting import wait_for


@contextmanager
def serving(config: MetricsConfig, text: str = "braid_run_step 1\n") -> Iterator[str]:
    with MetricsServer(config, text.encode, {}) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def got(url: str, token: str = "", method: str = "GET") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=10.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_and_nothing_else():
    with serving(MetricsConfig(port=free_port())) as url:
        assert got(f"{url}/metrics") == (200, "braid_run_step 1\n")
        assert got(f"{url}/metrics?x=1")[0] == 200
        for path in ("/", "/metrics/../etc/passwd", "/status"):
            assert got(url + path)[0] == 404
        assert got(f"{url}/metrics", method="POST")[0] == 501


def test_who_has_no_token_reads_nothing(tmp_path: Path):
    with serving(MetricsConfig(port=free_port(), token=f"file:{tmp_path}/token")) as url:
        assert got(f"{url}/metrics", "any")[0] == 401, "there is to be one, and it can't be read: nobody reads"
        (tmp_path / "token").write_text("right\n")
        answers = {token: got(f"{url}/metrics", token) for token in ("", "wrong", "right", "right ", "r\u00ef")}
    assert {token: status for token, (status, _) in answers.items()} == {"": 401, "wrong": 401, "right": 200, "right ": 401, "r\u00ef": 401}
    assert all("braid_run_step" not in text for token, (_, text) in answers.items() if token != "right")


def test_however_many_scrape_it_is_made_once_a_second():
    made, now_s = [], [0.0]
    text = CachedText(lambda: str(made.append(1) or len(made)), clock=lambda: now_s[0])
    assert [text() for _ in range(5)] == [b"1"] * 5
    now_s[0] = 1.0
    assert text() == b"2"


def test_scrapers_that_say_nothing_keep_others_out_for_a_while_but_not_the_process():
    with serving(MetricsConfig(port=free_port())) as url:
        host, port = "127.0.0.1", int(url.rpartition(":")[2])
        silent = [socket.create_connection((host, port)) for _ in range(MOST_SCRAPERS)]
        wait_for(lambda: _is_turned_away(host, port), "all places to be taken")
        for one in silent:
            one.close()
        wait_for(lambda: not _is_turned_away(host, port), "a free place")


def _is_turned_away(host: str, port: int) -> bool:
    with socket.create_connection((host, port)) as one:
        try:
            one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return one.recv(100) == b""
        except ConnectionError:
            return True


def test_a_port_that_is_taken_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.alerting.metrics_server.METRICS_PORT_TRIED_EVERY_S", 0.05)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        port = MetricsPort(MetricsConfig(port=number), lambda: "braid_run_step 1\n", {})
        port.start()
        wait_for(lambda: port.trouble, "the trouble to be told")
        assert port.trouble == f"metrics: can't listen on 127.0.0.1:{number}: Address already in use; trying again"
    wait_for(lambda: not port.trouble, "the port")
    assert got(f"http://127.0.0.1:{number}/metrics") == (200, "braid_run_step 1\n")


def test_without_a_port_nothing_is_served():
    before = threading.active_count()
    MetricsPort(MetricsConfig(), str, {}).start()
    assert threading.active_count() == before
