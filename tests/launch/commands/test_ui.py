"""`braid ui` as a person types it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch.ui.serve import url_of
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, stored_run
from tests.launch.ui.serving import ask


@contextmanager
def typed(home: Path, *options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yields the process and the address that it printed."""
    environment = {**os.environ, "BRAID_HOME": str(home), **variables}
    command = [sys.executable, "-m", "launch.cli", "ui", "--port", "0", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_serves_and_ends_with_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    stored_run(tmp_path / "store", FINISHED, "train.num_steps=40")
    with typed(tmp_path, "--storage", str(tmp_path / "store")) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rstrip("/").rpartition(":")[2])
        assert ask(port, "/api/run/first").plain["status"]["step"] == 40
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "Ctrl-C ends it\n")


def test_beyond_loopback_the_address_has_a_token_without_which_nothing_is_served(tmp_path: Path) -> None:
    with typed(tmp_path, "--storage", str(tmp_path / "store"), "--host", "0.0.0.0") as (_, url):
        port, token = int(url.partition("/?")[0].rpartition(":")[2]), url.partition("?token=")[2]
        assert len(token) >= 32
        assert ask(port, "/api/runs").status == 401
        assert ask(port, "/api/runs", headers={"Authorization": f"Bearer {token}"}).status == 200


def test_a_token_of_ones_own_comes_from_the_environment(tmp_path: Path) -> None:
    with typed(tmp_path, "--storage", str(tmp_path / "store"), BRAID_UI_TOKEN="mine") as (_, url):
        assert url.endswith("/?token=mine")


def test_a_port_that_is_taken_is_one_line(braid: Braid) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = braid("ui", "--port", port)
    assert (done.status, done.err) == (2, f"braid: --port {port}: is taken on 127.0.0.1; choose another, or 0 for any that is free\n")


def test_a_host_that_is_not_ours_is_one_line(braid: Braid) -> None:
    done = braid("ui", "--host", "203.0.113.1", "--port", "0")
    assert done.status == 2
    assert done.err.startswith("braid: --host 203.0.113.1 --port 0: can't listen there (")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("host", "url"), [("::1", "http://[::1]:7/"), ("0.0.0.0", "http://localhost:7/"), ("head", "http://head:7/")], ids=str
)
def test_the_address_is_one_that_a_browser_opens(host: str, url: str) -> None:
    assert url_of(host, 7, "") == url
