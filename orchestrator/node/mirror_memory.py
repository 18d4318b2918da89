"""What memory the images on a node take: those of its own ranks, and copies of others'."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from orchestrator.host_memory import host_memory
from orchestrator.image_header import HEADER_BYTES, ImageHeader
from orchestrator.node.mirror_wire import CopyRefused

BLOCK_BYTES = 512
"""That `st_blocks` counts in."""


class ImageMemory:
    """For any thread. Linux gives a file memory only as it is filled: what is laid out and not filled yet is promised."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: set[int] = set()

    def add(self, files: Iterable[int]) -> None:
        with self._lock:
            self._files.update(files)

    def remove(self, files: Iterable[int]) -> None:
        """Before they are closed."""
        with self._lock:
            self._files.difference_update(files)

    def lay_out(self, image: ImageHeader, size_bytes: int) -> None:
        """For what is to arrive in it: it holds nothing then, and nothing of an image of another size is left.

        Raises CopyRefused where the machine would be short of memory: the kernel would end a process for it.
        """
        with self._lock:
            file = os.fstat(image.fd)
            others = [found for fd in self._files if not os.path.samestat(found := os.fstat(fd), file)]
            _require(_unfilled(file, size_bytes), promised=sum(_unfilled(other, other.st_size) for other in others))
            image.hold(None)
            if file.st_size != size_bytes:
                os.ftruncate(image.fd, HEADER_BYTES)
                os.ftruncate(image.fd, size_bytes)


def _unfilled(file: os.stat_result, size_bytes: int) -> int:
    """What a file of this size still takes; of the header little is ever filled."""
    return max(0, size_bytes - HEADER_BYTES - file.st_blocks * BLOCK_BYTES)


def _require(size_bytes: int, *, promised: int) -> None:
    room = max(0, host_memory().room - promised)
    if size_bytes > room:
        raise CopyRefused(
            f"the copy takes {size_bytes / 1e9:.1f} GB more memory, and the node that is to have it has {room / 1e9:.1f} left for it; "
            "use nodes with more memory, or set snapshot.mirror=false"
        )
