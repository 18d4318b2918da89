"""How much memory this host has left, or the container that this process is in. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LEFT_FREE_SHARE = 0.05
"""Of all memory, what no snapshot takes: the kernel would end a process for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostMemory:
    """Bytes."""

    total: int
    available: int
    """That Linux could give without swapping."""

    @property
    def room(self) -> int:
        """For snapshots."""
        return max(0, self.available - round(LEFT_FREE_SHARE * self.total))


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Of the host, or of the container where that has less; `root` is where /proc and /sys are."""
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    host = HostMemory(total=total, available=available)
    return min(host, _of_container(root / "sys/fs/cgroup") or host, key=lambda memory: memory.available)


def _of_container(cgroup: Path) -> HostMemory | None:
    """As a container sees its own group of processes; None where there is no limit, or no container."""
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    given_back = int(statistics["inactive_file"]) + int(statistics["active_file"])
    return HostMemory(total=int(limit), available=max(0, int(limit) - used + given_back))
