"""How two agents copy an image over a connection: whoever receives says which parts are wanted, again where one is not what was sent."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from orchestrator import codec
from orchestrator.deadlines import MIRROR_STALLS_S
from orchestrator.image_header import Held, ImageHeader, Span

MAX_MESSAGE_BYTES = 2**21
PIECE_BYTES = 2**20
MAX_ROUNDS = 3
"""How often a part is sent before the way to the other node is taken for bad."""
_LENGTH_BYTES = 4
T = TypeVar("T")


class CopyRefused(Exception):
    """One of the two does without this copy."""


class Outdated(Exception):
    """The image was written over while it was sent."""


class Verb(Enum):
    KEEP = "keep"
    """Take a copy of an image."""
    GIVE = "give"
    """Send the images that you have copies of, the newest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """The first word of who connects."""

    token: str
    attempt: int
    rank: int
    verb: Verb


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    refusal: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    held: Held | None = None
    """None: there is no other."""
    beside: tuple[int, int] | None = None
    """Attempt and step of the other snapshot that is whole where this one comes from: a copy of it stays. None where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Want:
    spans: tuple[str, ...] = ()
    """To be sent, in this order; none where the copy is whole, or not wanted."""
    is_checking: bool = False
    """What arrived is still being digested: wait for another word."""
    refusal: str = ""


class Connection:
    """For one thread, but `abort` may be called from any. Whatever waits longer than MIRROR_STALLS_S for the other side raises OSError."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(MIRROR_STALLS_S)
        self._socket = connected
        self._piece = memoryview(bytearray(PIECE_BYTES))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Who waits for the other side fails."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def tell(self, message: object) -> None:
        text = codec.to_json(message)
        self._socket.sendall(len(text).to_bytes(_LENGTH_BYTES, "little") + text)

    def hear(self, kind: type[T]) -> T:
        """Raises DecodeError, OSError."""
        length = int.from_bytes(self._receive(_LENGTH_BYTES), "little")
        if length > MAX_MESSAGE_BYTES:
            raise codec.DecodeError(f"a message of {length} bytes: not from an agent of this version of braid")
        return codec.from_json(kind, self._receive(length))

    def send(self, fd: int, span: Span) -> None:
        with open(f"/proc/self/fd/{fd}", "rb") as file:  # with a place of its own: sendfile moves it, a worker writes by that of `fd`
            sent = self._socket.sendfile(file, span.start, span.size_bytes) if span.size_bytes else 0
        if sent != span.size_bytes:
            raise Outdated

    def receive(self, fd: int, span: Span, on_life: Callable[[], None]) -> None:
        done = 0
        while done < span.size_bytes:
            piece = self._piece[: span.size_bytes - done]
            piece = piece[: self._some(piece)]
            on_life()
            os.pwrite(fd, piece, span.start + done)
            done += len(piece)

    def _receive(self, size_bytes: int) -> bytes:
        data = bytearray(size_bytes)
        left = memoryview(data)
        while left:
            left = left[self._some(left) :]
        return bytes(data)

    def _some(self, into: memoryview) -> int:
        count = self._socket.recv_into(into)
        if not count:
            raise ConnectionError("the other side has ended the connection")
        return count


def connect(address: str, port: int) -> Connection:
    """Raises OSError."""
    return Connection(socket.create_connection((address, port), timeout=MIRROR_STALLS_S))


def send_image(connection: Connection, image: ImageHeader, offer: Offer, digest: bytes) -> None:
    """What is offered; returns when the other side has it, or has a newer one. Raises CopyRefused, Outdated, DecodeError, OSError."""
    spans = {span.name: span for span in offer.held.spans} if offer.held is not None else {}
    connection.tell(offer)
    while (want := connection.hear(Want)).spans or want.is_checking:
        if image.digest() != digest:
            raise Outdated
        if not spans.keys() >= set(want.spans):
            raise CopyRefused("the other side asks for parts that were not offered")
        for name in want.spans:
            connection.send(image.fd, spans[name])
    if want.refusal:
        raise CopyRefused(want.refusal)


def receive_image(
    connection: Connection,
    image: ImageHeader,
    held: Held,
    hands: Executor,
    *,
    lay_out: Callable[[ImageHeader, int], None],
    on_life: Callable[[], None],
) -> None:
    """What was offered: it counts once every part has its digest. Raises CopyRefused, DecodeError, OSError."""
    lay_out(image, held.size_bytes)
    wanted: Sequence[Span] = held.spans
    for _ in range(MAX_ROUNDS):
        connection.tell(Want(spans=tuple(span.name for span in wanted)))
        with _all_ended() as checks:
            for span in wanted:
                connection.receive(image.fd, span, on_life)
                checks.append(hands.submit(_digest, image.fd, span))  # beside what follows: digesting is slower than receiving
            while wait(checks, MIRROR_STALLS_S / 4).not_done:
                connection.tell(Want(is_checking=True))
                on_life()
        wanted = [span for span, check in zip(wanted, checks, strict=True) if check.result() != held.digests.get(span.name)]
        if not wanted:
            image.hold(held)
            return connection.tell(Want())
    raise CopyRefused(
        f"the snapshot of step {held.step} arrived {MAX_ROUNDS} times as something else than it is; "
        "look at the memory and the network of both nodes"
    )


@contextmanager
def _all_ended() -> Iterator[list[Future[str]]]:
    """For digests: none is under way any more when it ends. Whatever goes wrong meanwhile, none reads a file that is closed after that."""
    checks: list[Future[str]] = []
    try:
        yield checks
    finally:
        wait([check for check in checks if not check.cancel()])


def _digest(fd: int, span: Span) -> str:
    found = hashlib.sha256()
    for start in range(0, span.size_bytes, PIECE_BYTES):
        found.update(os.pread(fd, min(PIECE_BYTES, span.size_bytes - start), span.start + start))
    return found.hexdigest()
