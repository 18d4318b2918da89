"""Encodes batches in processes of this machine, a core each. One that is killed is replaced, and what it was at is done again."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from data_pipeline.dataset.batches import EncodedBatch, Encoding
from data_pipeline.errors import BuildFailed, DataError
from data_pipeline.sources.corpus import Batch

MOST_LOSSES = 3
"""Of processes at the same batch: something is wrong with it, or with the machine."""
_AHEAD = 2
"""Batches that a process has: one that it encodes, and the next."""
_WINDOW = 4
"""Batches for each process that may be under way, or done and waiting for one before them."""
_ROOT = Path(__file__).resolve().parents[2]


def encode_in_processes(encoding: Encoding, batches: Iterator[Batch], *, num_workers: int) -> Generator[EncodedBatch, None, None]:
    """An `Encode`. Closing it kills the processes. Raises BuildFailed where processes end again and again over the same batch."""
    pool = _Pool(encoding=encoding, batches=batches, num_workers=num_workers)
    try:
        yield from pool.encoded()
    finally:
        pool.end()


def num_usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(eq=False, slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    under_way: dict[int, Batch] = field(default_factory=dict)
    """By number; the first is the one that it encodes."""
    is_up: bool = False
    """It takes what it is sent; before, that would wait for it."""


@dataclass(kw_only=True, slots=True)
class _Pool:
    encoding: Encoding
    batches: Iterator[Batch]
    num_workers: int
    workers: list[_Worker] = field(default_factory=list)
    lost: deque[tuple[int, Batch]] = field(default_factory=deque)
    """To be encoded again."""
    num_losses: dict[int, int] = field(default_factory=dict)
    """Of processes, by the batch that they were at."""
    done: dict[int, EncodedBatch | Exception] = field(default_factory=dict)
    """What waits for its turn."""
    num_begun: int = 0
    num_given: int = 0
    is_exhausted: bool = False

    def encoded(self) -> Iterator[EncodedBatch]:
        """In order, as long as there are any."""
        while True:
            self._hand_out()
            while (answer := self.done.pop(self.num_given, None)) is not None:
                if isinstance(answer, Exception):
                    raise answer
                self.num_given += 1
                yield answer
                self._hand_out()
            if self.num_given == self.num_begun:
                return
            for ready in wait([worker.connection for worker in self.workers]):
                self._take(next(worker for worker in self.workers if worker.connection is ready))

    def end(self) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.connection.close()
            worker.process.wait()

    def _hand_out(self) -> None:
        """Gives every process what it can do next, and starts another one where all have something."""
        while self._has_room() and (numbered := self._next_batch()) is not None:
            worker = min(self.workers, key=lambda worker: len(worker.under_way), default=None)
            if worker is None or (worker.under_way and len(self.workers) < self.num_workers):
                worker = _started()
                self.workers.append(worker)
            number, batch = numbered
            worker.under_way[number] = batch
            if worker.is_up:
                _send(worker, (number, batch))

    def _has_room(self) -> bool:
        num_under_way = sum(len(worker.under_way) for worker in self.workers)
        return num_under_way < _AHEAD * self.num_workers and (
            bool(self.lost) or self.num_begun - self.num_given < _WINDOW * self.num_workers
        )

    def _next_batch(self) -> tuple[int, Batch] | None:
        if self.lost:
            return self.lost.popleft()
        if self.is_exhausted:
            return None
        number = self.num_begun
        try:
            batch = next(self.batches, None)
        except DataError as error:  # it is told when what comes before it is done
            self.done[number], batch = error, None
        self.is_exhausted = batch is None
        self.num_begun += batch is not None or number in self.done
        return None if batch is None else (number, batch)

    def _take(self, worker: _Worker) -> None:
        try:
            number, answer = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if number is None:
            worker.is_up = True
            _send(worker, self.encoding, *worker.under_way.items())
        else:
            del worker.under_way[number]
            self.num_losses.pop(number, None)
            self.done[number] = answer

    def _lose(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.connection.close()
        worker.process.kill()
        status = worker.process.wait()
        if not worker.under_way:
            return
        at, batch = next(iter(worker.under_way.items()))
        self.num_losses[at] = self.num_losses.get(at, 0) + 1
        if self.num_losses[at] == MOST_LOSSES:
            del worker.under_way[at]
            self.done[at] = BuildFailed(
                f"{batch[0].name}, from {batch[0].chunk.place.number} on: {MOST_LOSSES} processes that tokenized it ended, the last "
                f"{_told(status)}; is memory short? Try fewer --workers"
            )
        self.lost.extendleft(reversed(worker.under_way.items()))


def _started() -> _Worker:
    """A process of a session of its own, so that a terminal's Ctrl-C is its starter's alone."""
    ours, its = Pipe()
    paths = [str(_ROOT), *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with its:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "data_pipeline.dataset.worker_process", str(its.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
    return _Worker(process=process, connection=ours)


def _send(worker: _Worker, *messages: object) -> None:
    with suppress(OSError):  # it has just ended, which shows when it is waited for
        for message in messages:
            worker.connection.send(message)


def _told(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
