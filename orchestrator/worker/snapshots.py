"""Snapshots of training in memory: what a checkpoint uploads, and what the next attempt goes on from. Of two, one is always whole."""

from __future__ import annotations

import logging
import os
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchestrator import codec
from orchestrator.errors import CheckpointCorrupt
from orchestrator.image_header import Held
from orchestrator.worker.arrivals import wait_for_arrivals
from orchestrator.worker.dcp import FILE_SIZE_BYTES
from orchestrator.worker.image import ALIGNMENT, Image, build_image, files_of, new_memory
from orchestrator.worker.training_state import shards_of, written_here

NUM_HANDS = min(16, os.cpu_count() or 1)
"""Threads that digest."""
TOUCHED_BYTES = 2**24
COSTS_LOOKED_AT = 5
COPIED_LOOKS_EVERY_S = 0.01
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One that is whole."""

    image: Image
    held: Held

    @property
    def is_fetched(self) -> bool:
        """Whether this node's agent had it from another."""
        return self.image.header.is_fetched


class Snapshots:
    """For one thread, which trains. Made by `build_snapshots`."""

    def __init__(self, images: Sequence[Image], *, attempt: int, terms: str, device: torch.device) -> None:
        self._images = list(images)
        """The one that was taken last comes last."""
        self._attempt = attempt
        self._terms = terms
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: torch.cuda.Event | None = None
        self._hands = ThreadPoolExecutor(NUM_HANDS, thread_name_prefix="snapshot")
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._ready = {image: self._sealer.submit(self._make_ready, image) for image in reversed(self._images)}
        """The newest first: it is the one that may be loaded."""
        self._sealing: Future[Snapshot] | None = None
        self._uploaded: Image | None = None
        """Taken last for a checkpoint."""
        self.newest_step = 0
        """Of the last one that was taken here; 0 before it."""
        self._costs_s: deque[float] = deque(maxlen=COSTS_LOOKED_AT)
        self.sealed_after_s = 0.0
        """How long the last one took until it was whole."""

    @property
    def cost_s(self) -> float:
        """Training's time that one takes, at most; 0 before the first. One that a busy machine held up does not put off the next."""
        return statistics.median(self._costs_s) if self._costs_s else 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the next one would have to wait: the memory is being made ready, or the last one is not whole yet, or still to be copied
        to another node. So of two, one is always whole on both.
        """
        is_sealing = self._sealing is not None and not self._sealing.done()
        is_readying = not all(readying.done() for readying in self._ready.values())
        return is_sealing or is_readying or any(image.header.is_awaited for image in self._images)

    def are_ready_within(self, timeout_s: float) -> bool:
        """Whether the next one would have nothing to wait for by then."""
        ends_at_s = time.monotonic() + timeout_s
        awaited: list[Future[Any]] = [*self._ready.values(), *([self._sealing] if self._sealing else [])]
        wait(awaited, timeout_s)
        while self.is_busy and time.monotonic() < ends_at_s:
            time.sleep(COPIED_LOOKS_EVERY_S)
        return not self.is_busy

    def take(self, step: int, state: Mapping[str, Tensor], *, is_uploaded: bool = False, spares_uploaded: bool = False) -> Future[Snapshot]:
        """Of the state after a step; `before_update` is to be called before the state changes. Waits for the one before to be whole.

        The older one is written over; with `spares_uploaded` not the one that was taken last for a checkpoint, which is still read.
        """
        if self._sealing is not None:
            self._sealing.result()
        spared = self._uploaded if spares_uploaded else None
        image = next(image for image in self._images if image is not spared)
        self._ready[image].result()
        self._uploaded = image if is_uploaded else self._uploaded
        self._images = [*(other for other in self._images if other is not image), image]
        started_s = time.monotonic()
        image.hold(None)
        self.newest_step = step
        self._copy(image, state)
        self._costs_s.append(time.monotonic() - started_s)
        self._sealing = self._sealer.submit(self._seal, image, step, self._copied, started_s)
        return self._sealing

    def before_update(self) -> None:
        """What the device does from now on waits until the last snapshot is copied."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)
            self._copied = None

    def whole(self) -> list[Snapshot]:
        """What can be gone on from, newest first."""
        found = [Snapshot(image, held) for image in self._images if (held := image.held()) is not None and held.terms == self._terms]
        return sorted(found, key=lambda snapshot: snapshot.held.step, reverse=True)

    @property
    def survives(self) -> bool:
        """Whether another attempt can go on from them."""
        return len(self._images) > 1

    def check(self, snapshot: Snapshot) -> None:
        """Raises CheckpointCorrupt where the memory is not what was written."""
        found = snapshot.image.digests(self._hands)
        if found != snapshot.held.digests:
            what = f"host {socket.gethostname()}: the snapshot of step {snapshot.held.step} changed in its memory"
            raise CheckpointCorrupt(f"{what}; look at its memory's errors", key="")

    def load(self, snapshot: Snapshot, state: Mapping[str, Tensor]) -> None:
        """Copies one that was checked into the tensors of `state`. It is written over last; what is newer is of no history any more."""
        self._ready[snapshot.image].result()
        for name, shard in shards_of(state).items():
            shard.copy_(snapshot.image.tensors[name], non_blocking=True)
        if self._stream is not None:
            torch.cuda.current_stream().synchronize()
        self._images.sort(key=lambda image: image is snapshot.image)
        for other in self.whole():
            if other.held.name > snapshot.held.name:
                other.image.hold(None)

    def _copy(self, image: Image, state: Mapping[str, Tensor]) -> None:
        shards = shards_of(state)
        if shards.keys() != image.tensors.keys():
            raise ValueError("this rank's tensors are others than those that its snapshots were laid out for")
        if self._stream is None:
            for name, shard in shards.items():
                image.tensors[name].copy_(shard)
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for name, shard in shards.items():
                image.tensors[name].copy_(shard, non_blocking=True)
            self._copied = self._stream.record_event()

    def _seal(self, image: Image, step: int, copied: torch.cuda.Event | None, started_s: float) -> Snapshot:
        if copied is not None:
            copied.synchronize()
        copied_s = time.monotonic()
        held = Held(attempt=self._attempt, step=step, terms=self._terms, spans=image.spans, digests=image.digests(self._hands))
        image.hold(held)
        self.sealed_after_s = time.monotonic() - started_s
        log.info("snapshot of step %d: copied in %.3f s, whole after %.3f", step, copied_s - started_s, self.sealed_after_s)
        return Snapshot(image, held)

    def _make_ready(self, image: Image) -> None:
        """Takes its memory, and tells the GPU of it."""
        for piece in image.pieces():
            list(self._hands.map(_touch, piece.split(TOUCHED_BYTES)))
            if self._stream is not None:
                with torch.cuda.device(self._device):  # of a thread of its own it is the first one else
                    _pin(piece)


def build_snapshots(
    memory: Sequence[int], state: Mapping[str, Tensor], *, rank: int, world_size: int, attempt: int, terms: str, device: torch.device
) -> Snapshots:
    """In `memory`, files of an agent that may hold those of an earlier attempt; with none, in memory that ends with this process.

    What still arrives there from another node is waited for. Those of other `terms` are left alone: `state` is the same piece of the same
    training where they are the same.
    """
    wait_for_arrivals(memory)
    shards = shards_of(state)
    written = {name: shards[name].nbytes for name in written_here(state, rank=rank, world_size=world_size)}
    files = files_of(written, prefix=f"__{rank}_", file_size_bytes=FILE_SIZE_BYTES)
    images = [build_image(fd, shards, files=files) for fd in memory or new_memory([f"snapshot of rank {rank}"])]
    images.sort(key=lambda image: held.name if (held := image.held()) is not None else (0, 0))
    return Snapshots(images, attempt=attempt, terms=codec.digest((terms, [image.places for image in images])), device=device)


def newest_common(whole: Sequence[Sequence[tuple[int, int]]]) -> Iterator[tuple[int, int]]:
    """(attempt, step) of the snapshots that every rank has, newest first."""
    common = set(whole[0]).intersection(*whole[1:])
    yield from sorted(common, key=lambda name: name[1], reverse=True)


def _touch(piece: Tensor) -> None:
    """Takes memory for every page without changing what is there."""
    piece[::ALIGNMENT].add_(0)


def _pin(piece: Tensor) -> None:
    error = torch.cuda.cudart().cudaHostRegister(piece.data_ptr(), piece.nbytes, 0)
    if int(error):
        raise RuntimeError(
            f"{piece.nbytes} bytes of memory can't be pinned for the GPU: {error}; raise `ulimit -l`, or set snapshot.enabled=false"
        )
