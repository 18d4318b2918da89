"""moto's server as a process of its own, and what we add to it: conditional writes one after the other."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.s3 import create_bucket, open_s3
from launch.servers.moto import atomic_creates
from tests.data_pipeline.store.s3_world import ACCESS_KEY, SECRET_KEY, set_credentials


def request(body: Any, *, conditional: bool = True) -> dict[str, Any]:
    environ = {"wsgi.input": body, "CONTENT_LENGTH": "4"}
    return environ | {"HTTP_IF_NONE_MATCH": "*"} if conditional else environ


def test_conditional_writes_never_overlap() -> None:
    inside = threading.Semaphore(1)
    overlaps: list[bool] = []
    others = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        alone = inside.acquire(blocking=False)
        overlaps.append(not alone)
        others.wait(0.02)  # gives the others every chance to come in
        if alone:
            inside.release()
        return [environ["wsgi.input"].read()]

    served = atomic_creates(app)
    threads = [threading.Thread(target=lambda: served(request(io.BytesIO(b"body")), None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 8


def test_a_client_that_freezes_within_its_body_holds_up_nobody() -> None:
    thawed = threading.Event()
    entered = threading.Event()

    class FrozenBody:
        def read(self, size: int) -> bytes:
            entered.set()
            assert thawed.wait(30)
            return b"late"

    served = atomic_creates(lambda environ, start_response: [environ["wsgi.input"].read()])
    answers: list[Any] = []
    frozen = threading.Thread(target=lambda: answers.append(served(request(FrozenBody()), None)))
    frozen.start()
    assert entered.wait(30)
    assert served(request(io.BytesIO(b"fast")), None) == [b"fast"]
    assert served(request(io.BytesIO(b"free"), conditional=False), None) == [b"free"]
    thawed.set()
    frozen.join()
    assert answers == [[b"late"]]


def test_the_server_process_writes_its_endpoint_and_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_credentials(monkeypatch, ACCESS_KEY, SECRET_KEY)
    endpoint_file = tmp_path / "endpoint"
    command = [sys.executable, "-m", "launch.servers.moto", "--endpoint-file", str(endpoint_file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not endpoint_file.exists():
                assert server.poll() is None
                time.sleep(0.02)
            storage = StorageConfig(root="s3://demo/here", endpoint_url=endpoint_file.read_text().strip())
            create_bucket(storage)
            open_s3(storage).create("key", b"1")
            assert open_s3(storage).get("key") == b"1"
        finally:
            server.terminate()
