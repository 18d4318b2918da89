"""What a host is busy with, from /proc."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.host_memory import host_memory
from orchestrator.telemetry import HostLevels

LOOPBACK = "lo"
RECEIVED, SENT = 0, 8
"""Places of bytes in a line of /proc/net/dev."""
IDLE, WAITS = 3, 4
"""Places of time without work in the first line of /proc/stat."""


@dataclass(frozen=True, slots=True)
class _Counts:
    at_s: float
    busy: int
    total: int
    received: int
    sent: int


class HostMeter:
    """Each look tells of the time since the one before. `root` is where /proc and /sys are, `home` a directory on the disk that matters."""

    def __init__(self, home: Path, root: Path = Path("/")) -> None:
        self._home = home
        self._root = root
        self._before: _Counts | None = None

    def look(self, now_s: float) -> HostLevels:
        """`now_s` of a clock that never goes back. Raises OSError."""
        before, now = self._before, self._counts(now_s)
        self._before = now
        memory, disk = host_memory(self._root), shutil.disk_usage(self._home)
        levels = HostLevels(
            memory_available_bytes=memory.available,
            memory_total_bytes=memory.total,
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
            **self._rates(before, now),
        )
        return levels

    @staticmethod
    def _rates(before: _Counts | None, now: _Counts) -> dict[str, float]:
        """Nothing at the first look."""
        if before is None or now.at_s <= before.at_s or now.total <= before.total:
            return {}
        seconds = now.at_s - before.at_s
        return {
            "cpu_share": (now.busy - before.busy) / (now.total - before.total),
            "received_bytes_s": max(0, now.received - before.received) / seconds,
            "sent_bytes_s": max(0, now.sent - before.sent) / seconds,
        }

    def _counts(self, now_s: float) -> _Counts:
        times = [int(word) for word in (self._root / "proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        networks = [line.split(":", 1) for line in (self._root / "proc/net/dev").read_text().splitlines() if ":" in line]
        bytes_of = [list(map(int, counts.split())) for name, counts in networks if name.strip() != LOOPBACK]
        return _Counts(
            at_s=now_s,
            busy=sum(times) - times[IDLE] - times[WAITS],
            total=sum(times),
            received=sum(counts[RECEIVED] for counts in bytes_of),
            sent=sum(counts[SENT] for counts in bytes_of),
        )
