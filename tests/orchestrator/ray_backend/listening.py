"""Who listens where, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, also within IPv6, as the kernel writes them."""


def listening_addresses(pids: Iterable[int]) -> set[str]:
    """IP addresses on which the processes listen, as the kernel writes them."""
    inodes = _sockets_of(pids)
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def _sockets_of(pids: Iterable[int]) -> set[str]:
    """Inodes."""
    found = set()
    for pid in pids:
        with suppress(FileNotFoundError):  # the process has ended
            for link in os.listdir(f"/proc/{pid}/fd"):
                with suppress(FileNotFoundError):
                    target = os.readlink(f"/proc/{pid}/fd/{link}")
                    if target.startswith("socket:["):
                        found.add(target[8:-1])
    return found
