"""Objects between ranks, through the store that they met at: no process group, and no connection between any two of them.

Every operation is a round. All ranks call the same ones in the same order, and the keys of a round begin with its number, so a rank that is
ahead disturbs nobody. Keys are removed once everybody has read them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch.distributed as dist

from orchestrator.errors import PeerFailed

T = TypeVar("T")
PIECE_BYTES = 4 * 2**20
"""The most that goes under one key: a TCPStore refuses values above 8 MiB."""
_COUNT_BYTES = 4


class Exchange:
    """One rank's end; for one thread. Another thread needs another exchange, on a clone of the store: a client that waits is locked.

    Every operation raises PeerFailed where others don't come within the store's timeout, or the store is gone or frozen with its host.
    A frozen store takes twice as long to find, and its exchange can't be used any more.
    """

    def __init__(self, store: dist.Store, *, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store = store
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="exchange")
        """Where the store is called: a client waits for a frozen server for ever, whatever its timeout."""
        self._patience_s: float = 2 * store.timeout.total_seconds()  # type: ignore[attr-defined]
        """Longer than a store that answers lets anybody wait."""
        self._round = 0
        self._outdated: list[str] = []
        """Keys of earlier rounds that this rank removes as soon as it knows that all ranks are past them."""

    def gather(self, value: T) -> list[T] | None:
        """The values of all ranks, by rank, on the first one; None on the others, which don't wait for it."""
        prefix = self._next_round()
        if self.rank != 0:
            self._write(f"{prefix}/{self.rank}", value)
            return None
        values = [value, *(self._take(f"{prefix}/{rank}") for rank in range(1, self.world_size))]
        self._remove_outdated()
        return values

    def scatter(self, values: Sequence[T] | None) -> T:
        """The value for this rank, of one for each rank that the first one gives."""
        prefix = self._next_round()
        if self.rank != 0:
            own: T = self._take(f"{prefix}/{self.rank}")
            return own
        assert values is not None, "the first rank gives them"
        for rank in range(1, self.world_size):
            self._write(f"{prefix}/{rank}", values[rank])
        return values[0]

    def broadcast(self, value: T, *, source: int = 0) -> T:
        """The value that rank `source` gives, on every rank."""
        key = self._next_round()
        if self.rank == source:
            self._outdated += self._write(key, value)
            return value
        given: T = self._read(key)[0]
        return given

    def count(self, vote: bool) -> int:
        """How many ranks vote yes; returns once all have voted. The same small cost for a rank however many there are."""
        prefix = self._next_round()
        came, votes, result = f"{prefix}/came", f"{prefix}/votes", f"{prefix}/result"
        if vote:
            self._call(self._store.add, votes, 1)
        if self._call(self._store.add, came, 1) == self.world_size:
            self._write(result, self._call(self._store.add, votes, 0))
        num_votes: int = self._read(result)[0]
        self._remove_outdated()
        if self.rank == 0:
            self._outdated += [came, votes, result]
        return num_votes

    def barrier(self) -> None:
        """Returns once every rank has come."""
        self.count(False)

    def _next_round(self) -> str:
        self._round += 1
        return str(self._round)

    def _write(self, key: str, value: object) -> list[str]:
        """Returns the keys that it is under: the first piece, which says how many there are, is written last."""
        data = pickle.dumps(value)
        pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
        keys = _keys(key, len(pieces))
        for piece_key, piece in zip(keys[1:], pieces[1:], strict=True):
            self._call(self._store.set, piece_key, piece)
        self._call(self._store.set, key, len(pieces).to_bytes(_COUNT_BYTES, "little") + pieces[0])
        return keys

    def _read(self, key: str) -> tuple[Any, list[str]]:
        """The value, once it is there, and the keys that it is under."""
        first = self._call(self._store.get, key)
        keys = _keys(key, int.from_bytes(first[:_COUNT_BYTES], "little"))
        pieces = [first[_COUNT_BYTES:], *(self._call(self._store.get, piece_key) for piece_key in keys[1:])]
        return pickle.loads(b"".join(pieces)), keys

    def _take(self, key: str) -> Any:
        """Reads a value that is for this rank alone, and removes it."""
        value, keys = self._read(key)
        self._remove(keys)
        return value

    def _remove_outdated(self) -> None:
        """To be called when all ranks have come to the round under way."""
        outdated, self._outdated = self._outdated, []
        self._remove(outdated)

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._call(self._store.delete_key, key)

    def _call(self, operation: Callable[..., T], *arguments: object) -> T:
        try:
            return self._caller.submit(operation, *arguments).result(self._patience_s)
        except (dist.DistError, TimeoutError) as error:
            why = next(iter(str(error).strip().splitlines()), "it does not answer")
            raise PeerFailed(f"rank {self.rank} waits for others in vain, or the rank that hosts their store is gone: {why}") from error


def _keys(key: str, num_pieces: int) -> list[str]:
    return [key, *(f"{key}/piece{number}" for number in range(1, num_pieces))]
