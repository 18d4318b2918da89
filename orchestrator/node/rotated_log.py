"""One log file per worker that can't fill the disk: when it is full it becomes `.1`, over the one before."""

from __future__ import annotations

import os
import threading
from pathlib import Path

SEGMENT_BYTES = 64 * 2**20


class RotatedLog:
    """Positions count every byte ever written, so that a reader can follow across rotations. Safe to use from any thread."""

    def __init__(self, path: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._older_start = 0
        self._start = 0
        self._end = 0
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Raises OSError, for example where the disk is full."""
        with self._lock:
            if self._end > self._start and self._end - self._start + len(data) > self._segment_bytes:
                os.replace(self._path, self._older)
                self._older_start, self._start = self._start, self._end
            mode = "wb" if self._end == self._start else "ab"
            with self._path.open(mode, buffering=0) as file:
                file.write(data)
            self._end += len(data)

    def read(self, offset: int, limit: int) -> tuple[bytes, int]:
        """Up to `limit` bytes from `offset`, or from the oldest that is left, and the offset after them."""
        with self._lock:
            offset = min(max(offset, self._older_start), self._end)
            data = b""
            if offset < self._start:
                data = _read(self._older, offset - self._older_start, min(limit, self._start - offset))
            if len(data) < limit and offset + len(data) >= self._start:
                data += _read(self._path, offset + len(data) - self._start, limit - len(data))
            return data, offset + len(data)

    def tail(self, limit: int) -> bytes:
        """The newest `limit` bytes."""
        return self.read(max(0, self._end - limit), limit)[0]

    @property
    def _older(self) -> Path:
        return self._path.with_name(self._path.name + ".1")


def _read(path: Path, start: int, length: int) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)
