"""Servers that take messages, as people have them: they answer, refuse, hang up or say nothing, and remember what came."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "T0KEN-that-nobody-may-read"
HANG_UP = 0


class FakeReceiver(ThreadingHTTPServer):
    """Answers with the statuses of `answers`, one after the other, and 200 from then on; HANG_UP ends the connection without a word."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: deque[int] = deque()
        self.got: list[dict[str, Any]] = []
        """Bodies of those that were taken."""
        self.asked: list[tuple[str, str]] = []
        """(method, path) of every request."""
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """With a token in it, as Slack's have."""
        return f"http://127.0.0.1:{self.server_port}/services/{TOKEN}?key={TOKEN}"

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """Of all messages, in their order."""
        return [alert for message in self.got for alert in message["alerts"]]

    @property
    def told(self) -> list[tuple[str, str]]:
        """(kind, state) of each."""
        return [(alert["kind"], alert["state"]) for alert in self.alerts]


class _Handler(BaseHTTPRequestHandler):
    server: FakeReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path))
        status = self.server.answers.popleft() if self.server.answers else 200
        if status == HANG_UP:
            self.close_connection = True
            return
        if status == 200 and body:
            self.server.got.append(json.loads(body))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def receiving() -> Iterator[FakeReceiver]:
    server = FakeReceiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
