"""/metrics on a port, from threads of its own: whoever scrapes waits for nobody, and nobody waits for it."""

from __future__ import annotations

import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from orchestrator.alerting.secrets import SecretMissing, read_secret
from orchestrator.alerts_config import MetricsConfig
from orchestrator.deadlines import METRICS_ANSWER_WITHIN_S, METRICS_MADE_EVERY_S, METRICS_PORT_TRIED_EVERY_S
from orchestrator.health.exposition import CONTENT_TYPE

MOST_SCRAPERS = 8
"""At once; others are turned away."""
log = logging.getLogger(__name__)


class CachedText:
    """What `make` returns, made anew no more often than every METRICS_MADE_EVERY_S, however many ask. Safe to use from any thread."""

    def __init__(self, make: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._made_at_s: float | None = None
        self._text = b""

    def __call__(self) -> bytes:
        with self._lock:
            now_s = self._clock()
            if self._made_at_s is None or now_s - self._made_at_s >= METRICS_MADE_EVERY_S:
                self._text = self._make().encode()
                self._made_at_s = now_s
            return self._text


class MetricsServer(ThreadingHTTPServer):
    """Answers GET /metrics."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, config: MetricsConfig, text: Callable[[], bytes], environ: Mapping[str, str]) -> None:
        self.address_family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        self.text = text
        self._place = config.token
        self._environ = environ
        self._free = threading.BoundedSemaphore(MOST_SCRAPERS)
        super().__init__((config.host, config.port or 0), _Handler)

    def may_read(self, authorization: str) -> bool:
        """Raises SecretMissing where there is to be a token and none can be read: nobody reads then."""
        if not self._place:
            return True
        wanted = f"Bearer {read_secret(self._place, self._environ)}"
        return hmac.compare_digest(authorization.encode("latin-1", "replace"), wanted.encode("latin-1", "replace"))

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    server_version, sys_version = "braid", ""
    timeout = METRICS_ANSWER_WITHIN_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            return self._answer(404, b"there is /metrics here, and nothing else\n")
        try:
            may_read = self.server.may_read(self.headers.get("Authorization", ""))
        except SecretMissing as error:
            log.warning("metrics are served to nobody: %s", error)
            may_read = False
        if not may_read:
            return self._answer(401, b"a token is needed: Authorization: Bearer ...\n", ("WWW-Authenticate", "Bearer"))
        self._answer(200, self.server.text(), kind=CONTENT_TYPE)

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str], kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Type", kind), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """A scrape is no news either."""


class MetricsPort:
    """Serves where the recipe names a port, from `start` to the end of the process; a port that is taken is tried again and again."""

    def __init__(self, config: MetricsConfig, make: Callable[[], str], environ: Mapping[str, str]) -> None:
        self._config = config
        self._text = CachedText(make)
        self._environ = environ
        self.trouble = ""
        """Why nothing is served, one line; empty where it is, or is not to be."""

    def start(self) -> None:
        if self._config.port is not None:
            threading.Thread(target=self._serve, name="metrics", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                with MetricsServer(self._config, self._text, self._environ) as server:
                    self.trouble = ""
                    server.serve_forever()
            except OSError as error:
                self.trouble = f"metrics: can't listen on {self._config.host}:{self._config.port}: {error.strerror or error}; trying again"
                time.sleep(METRICS_PORT_TRIED_EVERY_S)
