"""Copies of other nodes' snapshots, in memory of this node's agent: two of each rank, so that one is always whole."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.deadlines import MIRROR_STALLS_S
from orchestrator.image_header import Held, ImageHeader
from orchestrator.node.mirror_memory import ImageMemory
from orchestrator.node.mirror_wire import CopyRefused

NUM_SNAPSHOTS = 2
"""Of each rank: one is always whole."""


def new_files() -> tuple[int, ...]:
    """Files of memory for one rank's snapshots. They have no name anywhere, and end with their last owner."""
    return tuple(os.memfd_create(f"braid-snapshot-{number}", os.MFD_CLOEXEC) for number in range(NUM_SNAPSHOTS))


@contextmanager
def headers_of(files: Collection[int]) -> Iterator[list[ImageHeader]]:
    """By descriptors of one's own, so that the files' owner may close his, though not while this begins."""
    with ExitStack() as stack:
        yield [ImageHeader(_dup(fd, stack)) for fd in files]


def _dup(fd: int, stack: ExitStack) -> int:
    own = os.dup(fd)
    stack.callback(os.close, own)
    return own


class Copies:
    """For any thread."""

    def __init__(self) -> None:
        self.attempt = 0
        """The newest that this node was told of: copies of an older one's are refused."""
        self.memory = ImageMemory()
        """All that images take on this node."""
        self._is_closed = False
        self._lock = threading.Lock()
        self._files: dict[int, tuple[int, ...]] = {}
        self._written: set[int] = set()
        """Ranks whose copy is being written."""
        self._ends_writing = threading.Condition(self._lock)

    def begin(self, attempt: int, ranks: Collection[int]) -> None:
        """From now on those of these ranks are kept; the memory of others is given back."""
        with self._lock:
            self.attempt = attempt
            for rank in self._files.keys() - set(ranks):
                self._give_back(self._files.pop(rank))

    @contextmanager
    def of(self, rank: int) -> Iterator[list[ImageHeader]]:
        """The images that are whole, the newest first."""
        with ExitStack() as stack:
            with self._lock:
                images = stack.enter_context(headers_of(self._files.get(rank, ())))
            found = [(held.name, image) for image in images if (held := image.held()) is not None]
            yield [image for _, image in sorted(found, key=lambda one: one[0], reverse=True)]

    @contextmanager
    def room_for(self, rank: int, held: Held, *, beside: tuple[int, int] | None = None) -> Iterator[ImageHeader | None]:
        """Where it is to be written: over the older one, but never over the one named `beside`, so that the two that stay are those that
        its node has. None where nothing need be: it is there, or newer ones are. Raises CopyRefused.
        """
        with ExitStack() as stack:
            images = self._begin_writing(rank, stack)
            oldest = min((image for image in images if beside is None or _name(image) != beside), key=_name)
            has_it = any(image.held() == held for image in images)
            if not has_it and _name(oldest) < held.name:
                yield oldest
            else:
                yield None

    def _begin_writing(self, rank: int, stack: ExitStack) -> list[ImageHeader]:
        """The images of a rank, for who calls this alone until `stack` is closed. Raises CopyRefused."""
        with self._ends_writing:
            if not self._ends_writing.wait_for(lambda: rank not in self._written, MIRROR_STALLS_S / 2):
                raise CopyRefused(f"another copy of rank {rank}'s snapshot is still arriving")
            if self._is_closed:
                raise CopyRefused("its agent is ending")
            if rank not in self._files:
                self._files[rank] = new_files()
                self.memory.add(self._files[rank])
            images = stack.enter_context(headers_of(self._files[rank]))
            self._written.add(rank)
            stack.callback(self._end_writing, rank)
            return images

    def _end_writing(self, rank: int) -> None:
        with self._ends_writing:
            self._written.discard(rank)
            self._ends_writing.notify_all()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            for files in self._files.values():
                self._give_back(files)
            self._files.clear()

    def _give_back(self, files: Collection[int]) -> None:
        self.memory.remove(files)
        for fd in files:
            os.close(fd)


def _name(image: ImageHeader) -> tuple[int, int]:
    held = image.held()
    return held.name if held is not None else (0, 0)
