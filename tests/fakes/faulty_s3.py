"""A real HTTP proxy before a real S3 server, which spoils what a test tells it to spoil.

with running_faulty_s3(endpoint_url) as s3:
    s3.spoil(truncated, method="GET", key="shards/", times=2)
"""

import http.client
import math
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

HOST = "127.0.0.1"
UPSTREAM_TIMEOUT_S = 60.0
OUR_OWN = ("connection", "content-length", "expect", "keep-alive", "transfer-encoding")
"""Headers that belong to a connection; each side of the proxy has its own."""
TIDY_PAGE = b"<html><head><title>Log in</title></head><body>Welcome to this network.</body></html>"
"""XML too."""
UNTIDY_PAGE = b"<!DOCTYPE html><html><head><title>Log in</title><body>Welcome to this network.<br>"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def without_header(self, name: str) -> "Answer":
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() != name.lower()))

    def with_header(self, name: str, value: str) -> "Answer":
        return replace(self, headers=(*self.without_header(name).headers, (name, value)))


class Exchange(BaseHTTPRequestHandler):
    """One request, and what may be done with it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "FaultyS3"

    _body: bytes | None = None

    def serve(self) -> None:
        self._body = None  # a kept connection brings one request after the other
        self.server.fault_for(self.command, unquote(self.path))(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def forward(self) -> Answer:
        """The real server's answer."""
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=UPSTREAM_TIMEOUT_S)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in OUR_OWN:
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(self._read_body())))
            upstream.endheaders(self._read_body())
            response = upstream.getresponse()
            headers = [pair for pair in response.getheaders() if pair[0].lower() not in OUR_OWN]
            if self.command == "HEAD":
                headers.append(("Content-Length", response.getheader("Content-Length", "0")))
            return Answer(response.status, tuple(headers), response.read())
        finally:
            upstream.close()

    def answer(self, answer: Answer) -> None:
        self.begin(answer)
        self.wfile.write(answer.body)

    def begin(self, answer: Answer) -> None:
        """Sends all but the body."""
        self._read_body()
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.command != "HEAD" and answer.status != http.client.NO_CONTENT and not answer.header("Content-Length"):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()

    def wait_until_the_client_leaves(self) -> None:
        self.close_connection = True
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        poll.poll()

    def reset(self) -> None:
        """Ends the connection by a TCP reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        pass

    def change_body(self, change: Callable[[bytes], bytes]) -> None:
        """What the server will get."""
        self._body = change(self._read_body())

    def _read_body(self) -> bytes:
        if self._body is None:
            self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self._body


Fault = Callable[[Exchange], None]


@dataclass(slots=True)
class Plan:
    """Which requests a fault is for."""

    fault: Fault
    method: str
    key: str
    times: float


class FaultyS3(ThreadingHTTPServer):
    """The proxy. `requests` are those that came, as "METHOD /bucket/key?query"."""

    daemon_threads = False  # so that closing waits for them

    def __init__(self, upstream_url: str) -> None:
        super().__init__((HOST, 0), Exchange)
        self.upstream = urlsplit(upstream_url).netloc
        self.requests: list[str] = []
        self._plans: list[Plan] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread: threading.Thread | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def spoil(self, fault: Fault, *, method: str = "", key: str = "", times: float = math.inf) -> None:
        """The next so many requests of this method whose path and query contain the pattern `key`. Plans are followed in their order."""
        with self._lock:
            self._plans.append(Plan(fault, method, key, times))

    def heal(self) -> None:
        with self._lock:
            self._plans.clear()
            self.requests.clear()

    def fault_for(self, method: str, path: str) -> Fault:
        with self._lock:
            self.requests.append(f"{method} {path}")
            for plan in self._plans:
                if plan.times > 0 and plan.method in ("", method) and re.search(plan.key, path):
                    plan.times -= 1
                    return plan.fault
        return passed_on

    def go_down(self) -> None:
        """Ends every connection and refuses new ones. The port stays ours."""
        if self._thread is None:
            return
        self.shutdown()
        self._thread.join()
        self._thread = None
        self.socket.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()

    def come_up(self) -> None:
        self.server_activate()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the client may leave whenever it likes
            super().handle_error(request, client_address)


@contextmanager
def running_faulty_s3(upstream_url: str) -> Iterator[FaultyS3]:
    server = FaultyS3(upstream_url)
    server.come_up()
    try:
        yield server
    finally:
        server.go_down()
        server.server_close()


def passed_on(exchange: Exchange) -> None:
    exchange.answer(exchange.forward())


def failing(status: int = 500, *, code: str = "", retry_after: str = "") -> Fault:
    """An error instead of an answer; the request goes no further. Without a code it is a load balancer's, else S3's own."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode() if code else b""
    headers = (("Retry-After", retry_after),) if retry_after else ()
    return lambda exchange: exchange.answer(Answer(status, headers, body))


def throttled(*, retry_after: str = "") -> Fault:
    return failing(503, code="SlowDown", retry_after=retry_after)


def reset_before(exchange: Exchange) -> None:
    """The connection is reset, and the server never hears of the request."""
    exchange.reset()


def reset_after(exchange: Exchange) -> None:
    """The server did what it was asked to, and its answer is lost."""
    exchange.forward()
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    """Half of the body that the headers announce, then the end of the connection."""
    answer = exchange.forward()
    exchange.begin(answer)
    exchange.wfile.write(answer.body[: len(answer.body) // 2])
    exchange.close_connection = True


def silent(exchange: Exchange) -> None:
    """No answer, and nothing is read of what is sent."""
    exchange.wait_until_the_client_leaves()


def stalled(exchange: Exchange) -> None:
    """The headers and a few bytes, then nothing, for as long as the client stays."""
    answer = exchange.forward()
    exchange.begin(answer)
    exchange.wfile.write(answer.body[: min(10, len(answer.body) - 1)])
    exchange.wait_until_the_client_leaves()


def dripping(exchange: Exchange) -> None:
    """A byte now and then, soon enough that no read times out."""
    answer = exchange.forward()
    exchange.begin(answer)
    for byte in answer.body:
        exchange.wfile.write(bytes([byte]))
        time.sleep(0.05)


def flipped(bit: int = 0) -> Fault:
    """One bit of the body is another one; nothing tells."""

    def flip(exchange: Exchange) -> None:
        answer = exchange.forward()
        body = bytearray(answer.body)
        body[bit // 8] ^= 1 << bit % 8
        exchange.answer(replace(answer, body=bytes(body)))

    return flip


def flipped_on_the_way_up(exchange: Exchange) -> None:
    """The server gets a body whose first bit is another one."""
    exchange.change_body(lambda body: bytes([body[0] ^ 1]) + body[1:])
    exchange.answer(exchange.forward())


def portal(page: bytes = TIDY_PAGE) -> Fault:
    """The login page of a network, which anything that is asked for turns into."""
    return lambda exchange: exchange.answer(Answer(200, (("Content-Type", "text/html"),), page))


def range_ignored(exchange: Exchange) -> None:
    """200 and as many bytes as the object has, whatever was asked for. Those that were not asked for are zeros."""
    answer = exchange.forward()
    start, end, size = _content_range(answer)
    body = bytes(start) + answer.body + bytes(size - end - 1)
    exchange.answer(replace(answer.without_header("Content-Range"), status=200, body=body))


def range_moved(exchange: Exchange) -> None:
    """As many bytes as were asked for, of another place of the object."""
    answer = exchange.forward()
    start, end, size = _content_range(answer)
    moved = answer.with_header("Content-Range", f"bytes {start + 1}-{end + 1}/{size}")
    exchange.answer(replace(moved, body=answer.body[1:] + b"?"))


def range_shortened(exchange: Exchange) -> None:
    """Fewer bytes than were asked for and than there are. HTTP allows it."""
    answer = exchange.forward()
    start, end, size = _content_range(answer)
    exchange.answer(replace(answer.with_header("Content-Range", f"bytes {start}-{end - 1}/{size}"), body=answer.body[:-1]))


def _content_range(answer: Answer) -> tuple[int, int, int]:
    """First and last byte, and the object's size."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.header("Content-Range"))
    assert found, f"the test's own request has no range, or the server ignores it: {answer.status}"
    start, end, size = map(int, found.groups())
    return start, end, size
