"""A page that is served by a thread of this process, and a controller to look at."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from data_pipeline.config import StorageConfig
from launch.errors import NotReachable
from launch.ui.access import Access, access_for
from launch.ui.server import Site, build_app
from orchestrator.identity import RunIdentity

WAIT_S = 20.0


@dataclass(slots=True)
class FakeController:
    """Answers with `now` as it is when it is asked, or not at all while that is None."""

    now: dict[str, Any] | None
    nodes: list[dict[str, Any]] = field(default_factory=list)
    log: bytes = b""
    asked: int = 0

    def status(self, page: int = 1) -> dict[str, Any]:
        self.asked += 1
        if self.now is None:
            raise NotReachable("controller of first: no answer")
        return dict(self.now)

    def ranks(self) -> list[dict[str, Any]]:
        return self.nodes

    def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        return (self.log[offset:], len(self.log))

    def find(self, run: RunIdentity, storage: StorageConfig) -> "FakeController":
        return self


def nobody(run: RunIdentity, storage: StorageConfig) -> None:
    """Finds no controller: the cluster is gone."""


@contextmanager
def serving(
    storage: StorageConfig,
    find: Callable[[RunIdentity, StorageConfig], FakeController | None] = nobody,
    *,
    access: Access | None = None,
    port: int = 0,
    poll_s: float = 0.05,
    heartbeat_s: float = 1.0,
    clock: Callable[[], float] = time.time,
) -> Iterator[int]:
    """Yields the port on loopback."""
    loop = asyncio.new_event_loop()

    async def begin() -> web.AppRunner:
        site = Site(storage, find, clock=clock, poll_s=poll_s, heartbeat_s=heartbeat_s)
        runner = web.AppRunner(
            build_app(site, access or access_for("127.0.0.1")), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        return runner

    thread = threading.Thread(target=loop.run_forever, name="served", daemon=True)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(begin(), loop).result(WAIT_S)
        try:
            yield runner.addresses[0][1]
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(WAIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_S)
        loop.close()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def plain(self) -> Any:
        return json.loads(self.text)


def ask(port: int, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """One request, sent as it is: nothing tidies the path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())
    finally:
        connection.close()


@contextmanager
def streaming(port: int, path: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Yields the events of a stream as they come: (event, data)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        yield _events(answer)
        answer.close()
    finally:
        connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    said: dict[str, str] = {}
    while line := answer.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name:
            said[name] = value
        elif "data" in said:
            yield said["event"], json.loads(said["data"])
            said = {}
