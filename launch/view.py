"""A run as a command sees it: asked through its controller where one answers, else read from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

from data_pipeline.object_store import KeyMissing
from launch.errors import NotOpen, NotReachable, UserError
from launch.record import RunRecord, read_run, recorded_status
from launch.render import Status
from orchestrator.ray_backend.places import log_key, run_directory

POLL_S = 0.5


class LiveController(Protocol):
    """The part of a controller's handle that looks and does not touch. Its methods raise NotReachable, NotOpen among it."""

    def status(self) -> Status: ...

    def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        """What is new in a live log and the offset after it; None when it is not live any more."""


class RunView:
    """Make it with `launch.lifecycle.open_view`. `record` is what was known at that moment."""

    def __init__(self, record: RunRecord, controller: LiveController | None, *, clock: Callable[[], float] = time.time) -> None:
        self.record = record
        self._controller = controller
        self._clock = clock

    def status(self) -> Status:
        """As fresh as can be had. Raises StoreError."""
        trouble = ""
        if self._controller is not None:
            try:
                return self._controller.status()
            except NotOpen as error:
                trouble = str(error)
            except NotReachable:
                pass
        self.record = read_run(self.record.storage, self.record.name)
        recorded = recorded_status(self.record, self._clock())
        return recorded | {"reason": trouble} if trouble and not self.record.has_ended else recorded

    def log(self, rank: int, attempt: int, *, follow: bool, sleep: Callable[[float], None] = time.sleep) -> Iterator[bytes]:
        """What a worker printed, in pieces; attempt 0 is the newest. Raises UserError where nothing is known of it."""
        attempt = attempt or max(1, self.record.state.attempt)
        self._check(rank, attempt)
        offset = 0
        while (chunk := self._live_log(rank, attempt, offset)) is not None:
            data, offset = chunk
            if data:
                yield data
            elif not follow:
                return
            else:
                sleep(POLL_S)
        if not offset:
            yield self._kept_log(rank, attempt)
        else:
            with suppress(UserError):  # its last words, where they were kept
                yield self._kept_log(rank, attempt)[offset:]

    def _check(self, rank: int, attempt: int) -> None:
        world_size, attempts = self.record.config.parallel.world_size, self.record.state.attempt
        if attempt > max(1, attempts):
            raise UserError(f"--attempt {attempt}: run {self.record.name} has had {attempts}; use a number up to that, or 0 for the newest")
        if rank >= world_size and attempt == attempts:
            raise UserError(f"--rank {rank}: run {self.record.name} has {world_size} workers; use 0 … {world_size - 1}")

    def _live_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        if self._controller is None:
            return None
        try:
            return self._controller.read_log(rank, attempt, offset)
        except NotReachable:
            return None

    def _kept_log(self, rank: int, attempt: int) -> bytes:
        key = log_key(attempt, rank)
        try:
            return self.record.run_store.get(key)
        except KeyMissing as error:
            local = run_directory(self.record.name) / key
            if local.is_file():
                return local.read_bytes()
            raise UserError(
                f"log of rank {rank} in attempt {attempt}: neither at {self.record.run_store.url(key)} nor at {local}; "
                "it is uploaded when the worker ends; look on the worker's own node"
            ) from error
