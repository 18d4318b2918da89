"""How much memory this host has left, or the container that this process is in. No torch."""

from __future__ import annotations

from collections.abc import Iterator
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
    """Of the host, or of the group of processes (a container, a job) that limits this one most; `root` is where /proc and /sys are."""
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    host = HostMemory(total=total, available=available)
    limits = [found for kind, group in _groups(root) if (found := _limit_of(kind, group)) is not None]
    return min([host, *limits], key=lambda memory: memory.room)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of control groups: where they are, and what their files are called."""

    mount: str
    limit: str
    used: str
    files: tuple[str, str]
    """In memory.stat: what the kernel may forget."""


_V2 = _Kind("sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = _Kind("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def _groups(root: Path) -> Iterator[tuple[_Kind, Path]]:
    """The groups that this process is in, up to the root of what it sees: a container may see its own as the root, whatever its name."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            kind = _V1 if controllers else _V2
            group = Path(path.lstrip("/"))
            yield from ((kind, root / kind.mount / part) for part in (group, *group.parents))


def _limit_of(kind: _Kind, group: Path) -> HostMemory | None:
    """None where there is no limit, or no such group to be seen."""
    try:
        limit, used = int((group / kind.limit).read_text()), int((group / kind.used).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    given_back = sum(int(statistics[name]) for name in kind.files)
    return HostMemory(total=limit, available=max(0, limit - used + given_back))
