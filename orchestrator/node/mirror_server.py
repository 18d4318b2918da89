"""Where an agent takes in copies of other nodes' snapshots, and gives them back: a port, and a thread for each connection."""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import threading
from concurrent.futures import Executor
from contextlib import suppress

from orchestrator.codec import DecodeError
from orchestrator.deadlines import MIRROR_ACCEPTS_AGAIN_AFTER_S
from orchestrator.messages import MirrorPlace
from orchestrator.node.mirror_copies import Copies
from orchestrator.node.mirror_wire import Answer, Ask, Connection, CopyRefused, Offer, Outdated, Verb, Want, receive_image, send_image

log = logging.getLogger(__name__)


class MirrorServer:
    """Made by `start_server`. Who does not know the token of `place` gets nothing, and leaves nothing."""

    def __init__(self, listener: socket.socket, place: MirrorPlace, copies: Copies, hands: Executor) -> None:
        self.place = place
        self._listener = listener
        self._copies = copies
        self._hands = hands
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._open: set[Connection] = set()

    def serve(self) -> None:
        """Until it is closed."""
        told = ""
        while not self._closed.is_set():
            try:
                connected, _ = self._listener.accept()
            except OSError as error:
                if not self._closed.wait(MIRROR_ACCEPTS_AGAIN_AFTER_S) and str(error) != told:
                    told = str(error)
                    log.warning("another node's agent can't be heard, trying again: %s", told)
                continue
            threading.Thread(target=self._answer, args=(Connection(connected),), name="mirror", daemon=True).start()

    def close(self) -> None:
        """Whoever is connected is hung up on."""
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                connection.abort()

    def _answer(self, connection: Connection) -> None:
        with connection:  # until nobody can abort it any more
            with self._lock:
                self._open.add(connection)
            try:
                self._obey(connection, connection.hear(Ask))
            except (OSError, DecodeError, CopyRefused, Outdated) as error:
                log.info("a copy of a snapshot was not made: %s", error)
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _obey(self, connection: Connection, ask: Ask) -> None:
        if not hmac.compare_digest(ask.token.encode(), self.place.token.encode()):
            log.warning("somebody asked for rank %d's snapshots who does not know this agent's token", ask.rank)
            return connection.tell(Answer(refusal="it does not know the token"))
        if ask.attempt < self._copies.attempt:
            return connection.tell(Answer(refusal=f"attempt {ask.attempt} is over, attempt {self._copies.attempt} has begun"))
        connection.tell(Answer())
        if ask.verb is Verb.KEEP:
            self._keep(connection, ask.rank)
        else:
            self._give(connection, ask.rank)

    def _keep(self, connection: Connection, rank: int) -> None:
        offer = connection.hear(Offer)
        held = offer.held
        if held is None:
            return
        try:
            with self._copies.room_for(rank, held, beside=offer.beside) as image:
                if image is None:
                    connection.tell(Want())
                else:
                    receive_image(connection, image, held, self._hands, lay_out=self._copies.memory.lay_out, on_life=lambda: None)
        except CopyRefused as error:
            connection.tell(Want(refusal=str(error)))
            raise

    def _give(self, connection: Connection, rank: int) -> None:
        with self._copies.of(rank) as images:
            for image in images:
                digest, held = image.digest(), image.held()
                if held is not None:
                    send_image(connection, image, Offer(held=held), digest)
        connection.tell(Offer())


def start_server(address: str, copies: Copies, hands: Executor) -> MirrorServer:
    """Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    place = MirrorPlace(address=address, port=listener.getsockname()[1], token=secrets.token_hex(16))
    server = MirrorServer(listener, place, copies, hands)
    threading.Thread(target=server.serve, name="mirror server", daemon=True).start()
    return server
