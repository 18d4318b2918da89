"""A node with its mirror, and snapshots as a worker leaves them in its memory."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from data_pipeline.config import StorageConfig
from orchestrator.image_header import HEADER_BYTES, Held, ImageHeader, Span
from orchestrator.messages import MirrorPlace
from orchestrator.node.mirror import build_mirror
from orchestrator.node.mirror_copies import new_files
from orchestrator.node.orders import SpawnOrder
from tests.orchestrator.node.scripted import MEET
from tests.orchestrator.node.waiting import wait_for

SIZES = (3 * 2**20 + 5, 70_000, 1)


def spawn(attempt: int, *, first_rank: int = 0, num_workers: int = 1, mirrored_ranks: range = range(1, 2)) -> SpawnOrder:
    return SpawnOrder(
        run="first",
        attempt=attempt,
        config_version=1,
        storage=StorageConfig(root="/data"),
        world_size=2 * num_workers,
        first_rank=first_rank,
        num_workers=num_workers,
        rendezvous=MEET,
        mirrored_ranks=mirrored_ranks,
    )


def write_image(fd: int, attempt: int, step: int, sizes: Iterable[int] = SIZES) -> Held:
    """As a worker does: it is whole when its header says so."""
    image, spans, digests, at = ImageHeader(fd), [], {}, HEADER_BYTES
    image.hold(None)
    for number, size_bytes in enumerate(sizes):
        data = random.Random(f"{attempt} {step} {number}").randbytes(size_bytes)
        os.pwrite(fd, data, at)
        spans.append(Span(name=f"__0_{number}.distcp", start=at, size_bytes=size_bytes))
        digests[spans[-1].name] = hashlib.sha256(data).hexdigest()
        at += -(-size_bytes // 4096) * 4096
    held = Held(attempt=attempt, step=step, terms="terms", spans=tuple(spans), digests=digests)
    os.ftruncate(fd, held.size_bytes)
    image.hold(held)
    return held


def image_bytes(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, HEADER_BYTES)


class Node:
    """An agent's memory and mirror."""

    def __init__(self, num_workers: int = 1) -> None:
        self.memory = [new_files() for _ in range(num_workers)]
        self.mirror = build_mirror("127.0.0.1")

    @property
    def place(self) -> MirrorPlace:
        assert self.mirror.place is not None
        return self.mirror.place

    def begins(self, order: SpawnOrder, buddy: Node | None = None) -> None:
        self.mirror.begin(order, self.memory)
        self.mirror.follow(buddy.place if buddy is not None else None)

    def trains(self, step: int, *, attempt: int = 1, local_rank: int = 0, spares: int | None = None) -> Held:
        """Takes a snapshot once the one before is where it is to be, not over the one of step `spares`."""
        files = self.memory[local_rank]
        wait_for(lambda: not any(ImageHeader(fd).is_awaited for fd in files), "the copy of the last snapshot")
        names = {fd: held.name if (held := ImageHeader(fd).held()) is not None else (0, 0) for fd in files}
        oldest = min((fd for fd in files if spares is None or names[fd] != (attempt, spares)), key=lambda fd: names[fd])
        return write_image(oldest, attempt, step)

    def steps(self, local_rank: int = 0) -> list[int]:
        """Of the snapshots that are whole."""
        return sorted(held.step for fd in self.memory[local_rank] if (held := ImageHeader(fd).held()) is not None)

    def steps_of_copies(self, rank: int) -> list[int]:
        with self.mirror._copies.of(rank) as images:
            return sorted(held.step for image in images if (held := image.held()) is not None)

    def copy(self, rank: int, step: int) -> bytes:
        with self.mirror._copies.of(rank) as images:
            [found] = [image_bytes(image.fd) for image in images if (held := image.held()) is not None and held.step == step]
            return found

    def close(self) -> None:
        self.mirror.close()
        for fd in (fd for files in self.memory for fd in files):
            os.close(fd)


@contextmanager
def nodes(number: int, *, num_workers: int = 1) -> Iterator[list[Node]]:
    made = [Node(num_workers) for _ in range(number)]
    try:
        yield made
    finally:
        for node in made:
            node.close()
