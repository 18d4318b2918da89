"""A run as a command sees it: asked through its controller where one answers, else read from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import KeyMissing
from launch.config.storage import storage_hint
from launch.errors import Abandoned, NoSuchLog, NotOpen, NotReachable, UserError
from launch.runs.connection import searching
from launch.runs.record import RunRecord, read_run, recorded_status
from launch.status import ENDED, Status
from orchestrator.control.status import ranks_of
from orchestrator.node.home import run_directory
from orchestrator.records.keys import log_key

POLL_S = 0.5
PATIENCE_S = 300.0
"""How long one who follows a run waits for a silent controller: it may be on its way to another node, or have more to do than to answer."""


class ReadOnlyHandle(Protocol):
    """The part of a RunHandle that looks and does not touch. Its methods raise NotReachable, NotOpen among it."""

    def status(self, page: int) -> Status: ...

    def ranks(self) -> list[dict[str, Any]]: ...

    def read_log(self, rank: int, attempt: int, offset: int) -> tuple[bytes, int] | None:
        """What is new in a live log and the offset after it; None when it is not live any more."""


@dataclass(slots=True)
class LogRead:
    """How far a worker's log has been read."""

    offset: int = 0
    is_over: bool = False
    """The store's copy of it was read, which is made when the worker ends."""


class RunView:
    """Made by `open_view`. `record` is what the store said when it was last read."""

    def __init__(
        self,
        record: RunRecord,
        find: Callable[[], ReadOnlyHandle | None],
        *,
        tell: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
        read: Callable[[], RunRecord] | None = None,
    ) -> None:
        """`find` gives the controller's handle, None where there is none; `tell` takes what one who follows the run should know; `read`
        the record as it is now, for who knows a shorter way than to read it all."""
        self.record = record
        self._read = read or (lambda: read_run(record.storage, record.name))
        self._find = find
        self._tell = tell
        self._clock = clock
        self._handle: ReadOnlyHandle | None = None
        self._silent_since_s: float | None = None
        self._has_told = False

    def status(self, page: int = 1) -> Status:
        """The freshest status that can be had, with the workers of a page; of a run that nothing controls it says how the run goes on.

        Raises StoreError.
        """
        trouble = ""
        if (handle := self._controller()) is not None:
            try:
                status = handle.status(page)
                self._note_answer()
                return status
            except NotOpen as error:
                trouble = str(error)
            except NotReachable:
                self._handle = None
        self._read_again()
        recorded = recorded_status(self.record, self._clock())
        if self.record.has_ended:
            return recorded
        if trouble:
            self._note_answer()
            return recorded | {"reason": trouble}
        self._note_silence()
        before = f"{recorded['reason']}; " if recorded["reason"] else ""
        return recorded | {"reason": f"{before}no controller answers; {self._remedy} continues it"}

    def ranks(self) -> list[dict[str, Any]]:
        """Every rank of the newest attempt by node, or only its nodes where its controller does not answer. Raises StoreError."""
        if (handle := self._controller()) is not None:
            try:
                return handle.ranks()
            except NotOpen:
                pass
            except NotReachable:
                self._handle = None
        self._read_again()
        return ranks_of(self.record.state, None)

    def followed_status(self, page: int = 1) -> Status:
        """The status for one who waits for news. Raises StoreError, and Abandoned once no controller has answered for PATIENCE_S."""
        status = self.status(page)
        if status["state"] not in ENDED:
            self._check_patience()
        return status

    def log(self, rank: int, attempt: int, *, follow: bool, sleep: Callable[[float], None] = time.sleep) -> Iterator[bytes]:
        """What a worker printed, in pieces; attempt 0 is the newest, and where that is followed, those after it until the run ends.

        Raises UserError, NoSuchLog where nobody has it, Abandoned where it is followed and no controller has answered for PATIENCE_S.
        """
        newest = max(1, self.record.state.attempt)
        self._check(rank, attempt or newest)
        if attempt or not follow or self.record.has_ended:
            yield from self._log_of(rank, attempt or newest, LogRead(), follow=follow, sleep=sleep)
            return
        reading = LogRead()
        while True:
            has_ended = self.record.has_ended
            with suppress(NoSuchLog):  # a worker that has not begun, or left no word
                yield from self._log_of(rank, newest, reading, follow=True, sleep=sleep)
            if self.record.state.attempt > newest:
                newest, reading = newest + 1, LogRead()
            elif has_ended:
                return
            else:
                self._look_for_another_attempt(sleep)

    def _log_of(self, rank: int, attempt: int, reading: LogRead, *, follow: bool, sleep: Callable[[float], None]) -> Iterator[bytes]:
        """What `reading` has not had of it. Raises as `log`."""
        while (chunk := self._live_log(rank, attempt, reading.offset, follow=follow)) is not None:
            data, reading.offset = chunk
            if data:
                yield data
            elif not follow:
                return
            else:
                self._check_patience()
                sleep(POLL_S)
        if reading.is_over:
            return
        try:
            kept = kept_log(self.record, rank, attempt)
        except NoSuchLog:  # its last words are lost
            if not reading.offset:
                raise
            return
        reading.is_over = True
        yield kept[reading.offset :]

    def _look_for_another_attempt(self, sleep: Callable[[float], None]) -> None:
        """For one who has read all that there is. Raises Abandoned, StoreError."""
        self.followed_status()
        self._read_again()
        if not self.record.has_ended:
            sleep(POLL_S)

    def _check(self, rank: int, attempt: int) -> None:
        world_size, attempts = self.record.config.parallel.world_size, self.record.state.attempt
        if attempt > max(1, attempts):
            raise UserError(f"--attempt {attempt}: run {self.record.name} has had {attempts}; use a number up to that, or 0 for the newest")
        if rank >= world_size and attempt == attempts:
            raise UserError(f"--rank {rank}: run {self.record.name} has {world_size} workers; use 0 … {world_size - 1}")

    def _live_log(self, rank: int, attempt: int, offset: int, *, follow: bool) -> tuple[bytes, int] | None:
        """(new bytes, offset after them), empty while the controller of a followed run is silent; None where only the store has the log."""
        handle = self._controller()
        if handle is None and self._silent_since_s is None:
            return None
        try:
            if handle is not None:
                chunk = handle.read_log(rank, attempt, offset)
                self._note_answer()
                return chunk
        except NotOpen:
            return None
        except NotReachable:
            self._handle = None
        self._read_again()
        if not follow or self.record.has_ended:
            return None
        self._note_silence()
        return b"", offset

    def _controller(self) -> ReadOnlyHandle | None:
        """Looked for again after every silence: there may be another one by now."""
        if self._handle is None and not self.record.has_ended:
            self._handle = self._find()
        return self._handle

    @property
    def _remedy(self) -> str:
        return f"`braid resume {self.record.name}{storage_hint(self.record.storage)}`"

    def _read_again(self) -> None:
        self.record = self._read()

    def _note_answer(self) -> None:
        self._silent_since_s = None
        self._has_told = False

    def _note_silence(self) -> None:
        if self._silent_since_s is None:
            self._silent_since_s = self._clock()

    def _check_patience(self) -> None:
        if self._silent_since_s is None:
            return
        minutes = f"{PATIENCE_S / 60:g} minutes"
        if self._clock() - self._silent_since_s >= PATIENCE_S:
            raise Abandoned(
                f"no controller of run {self.record.name} has answered for {minutes}; if its cluster is gone, {self._remedy} continues it"
            )
        if not self._has_told:
            self._has_told = True
            self._tell(f"no controller of run {self.record.name} answers; waiting up to {minutes} for one")


def kept_log(record: RunRecord, rank: int, attempt: int) -> bytes:
    """The log of a worker that has ended, from the store, or else from this machine. Raises NoSuchLog."""
    key = log_key(attempt, rank)
    try:
        return record.run_store.get(key)
    except KeyMissing as error:
        local = run_directory(record.identity) / key
        if local.is_file():
            return local.read_bytes()
        raise NoSuchLog(
            f"log of rank {rank} in attempt {attempt}: neither at {record.run_store.url(key)} nor at {local}; "
            "it is uploaded when the worker ends; look on the worker's own node"
        ) from error


def statuses(read: Callable[[], Status], *, poll_s: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[Status]:
    """What `read` says every `poll_s`, until the run has ended; the last one is of an ended run."""
    while True:
        status = read()
        yield status
        if status["state"] in ENDED:
            return
        sleep(poll_s)


@contextmanager
def open_view(storage: StorageConfig, name: str, address: str, *, tell: Callable[[str], None] = lambda line: None) -> Iterator[RunView]:
    """A run to look at, through its controller where one answers. Raises NoSuchRun, OnlyWeights, StoreError."""
    record = read_run(storage, name)
    with searching(record.identity, storage, address, tell=tell) as find:
        yield RunView(record, find, tell=tell)
