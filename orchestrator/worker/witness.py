"""A second look at a file that one host finds broken: is it the file, or the host?

A host whose memory or network flips bits finds every checkpoint broken. So before one is refused, which is for good, a rank of another node
reads the file too.
"""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from typing import NoReturn

from data_pipeline.store.protocol import KeyMissing, ObjectStore
from orchestrator.errors import CheckpointCorrupt, HostCorrupts, PeerFailed
from orchestrator.worker.agreement import on_one_rank
from orchestrator.worker.exchange import Exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class Complaint:
    """What one rank says of a file; the same on every rank."""

    rank: int
    error: CheckpointCorrupt


@dataclass(frozen=True, kw_only=True, slots=True)
class Witnesses:
    """Every rank's part in judging a complaint."""

    exchange: Exchange
    ranks_per_node: int

    def confirm(self, store: ObjectStore, complaint: Complaint) -> bool:
        """Whether a rank of another node finds the file broken as well; where there is no other node, the same rank looks again: False.

        Raises HostCorrupts on the rank that complained, and PeerFailed on all others, where the file is what was written; StoreError.
        """
        other = self._rank_of_another_node(complaint.rank)
        if not complaint.error.expected:
            return True  # what a verified manifest does not name is no matter of reading
        witness = complaint.rank if other is None else other
        found = on_one_rank(self.exchange, witness, lambda: _read_sha256(store, complaint.error.key))
        if found == complaint.error.expected:
            why = f"rank {witness}, which looked as well, reads it as it was written"
            self._end(complaint, HostCorrupts(f"host {socket.gethostname()}: {complaint.error}; {why}"))
        return other is not None

    def leave_open(self, complaint: Complaint, remedy: str) -> NoReturn:
        """Ends the attempt where nobody can tell whether it is the file or the host. Raises CheckpointCorrupt or PeerFailed."""
        self._end(complaint, CheckpointCorrupt(f"host {socket.gethostname()}: {complaint.error}; {remedy}", key=complaint.error.key))

    def _end(self, complaint: Complaint, error: Exception) -> NoReturn:
        """Raises the error on the rank that complains, and PeerFailed elsewhere."""
        if self.exchange.rank != complaint.rank:
            raise PeerFailed(f"rank {complaint.rank} alone finds a checkpoint broken, see its error")
        raise error

    def _rank_of_another_node(self, rank: int) -> int | None:
        """The lowest one."""
        others = (one for one in range(self.exchange.world_size) if one // self.ranks_per_node != rank // self.ranks_per_node)
        return next(others, None)


def _read_sha256(store: ObjectStore, key: str) -> str:
    try:
        return hashlib.sha256(store.get(key)).hexdigest()
    except KeyMissing:
        return ""
