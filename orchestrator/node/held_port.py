"""A port that nobody else takes until it is needed."""

from __future__ import annotations

import random
import socket

from orchestrator.messages import Rendezvous

PORTS = range(20000, 32768)
"""Below the range that Linux takes ports of outgoing connections from, which would be gone before the first worker listens."""


class HeldPort:
    """A port of an address, bound but not listened on. Made by `hold_port`."""

    def __init__(self, socket: socket.socket, rendezvous: Rendezvous) -> None:
        self._socket = socket
        self.rendezvous = rendezvous

    def release(self) -> None:
        """From now on somebody else may bind it."""
        self._socket.close()


def hold_port(address: str) -> HeldPort:
    """Raises OSError where there is none."""
    for port in random.SystemRandom().sample(PORTS, 100):
        holder = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            holder.bind((address, port))
        except OSError:
            holder.close()
            continue
        return HeldPort(holder, Rendezvous(address=address, port=port))
    raise OSError(f"none of 100 ports from {PORTS.start} to {PORTS.stop - 1} on {address} is free")
