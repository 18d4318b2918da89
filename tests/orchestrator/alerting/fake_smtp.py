"""A mail server that speaks as much SMTP as a client needs, without TLS, and remembers what it was given."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FakeSmtp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, refuses: str = "") -> None:
        self.mails: list[str] = []
        self.refuses = refuses
        """Beginning of commands that are answered with 554."""
        super().__init__(("127.0.0.1", 0), _Session)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Session(socketserver.StreamRequestHandler):
    server: FakeSmtp

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline().decode().strip():
            if self.server.refuses and line.upper().startswith(self.server.refuses):
                self._say("554 not with your secret words")
            elif line.upper().startswith("QUIT"):
                return self._say("221 bye")
            elif line.upper() == "DATA":
                self._say("354 go on")
                self.server.mails.append(self._data())
                self._say("250 taken")
            else:
                self._say("250 fine")

    def _data(self) -> str:
        lines = []
        while (line := self.rfile.readline().decode()) not in (".\r\n", ""):
            lines.append(line.rstrip("\r\n"))
        return "\n".join(lines)

    def _say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")


@contextmanager
def taking_mail(refuses: str = "") -> Iterator[FakeSmtp]:
    server = FakeSmtp(refuses)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
