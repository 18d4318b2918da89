"""What every step did, kept for `braid verify`: one JSON line per step, in segments that are written once. No torch.

    ledger/a0001/000000001-000000025.jsonl   steps 1 … 25 of attempt 1

A thread writes what has gathered about once a second, so that a killed worker leaves all but its last second behind. A checkpoint is
committed only after the records up to its step are durable.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from data_pipeline.store.protocol import KeyExists, ObjectStore, StoreError, StoreUnavailable
from model.parallel.config import ParallelConfig
from model.train.metrics import StepMetrics
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.deadlines import LEDGER_WRITTEN_EVERY_S
from orchestrator.records.keys import LEDGER, attempt_of_segment, ledger_directory, segment_key, segments_after

NUM_PARALLEL_READS = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord(StepMetrics):
    """A line of the ledger: what the step measured, every bit of it, and what it was of."""

    step: int
    attempt: int
    samples: str
    """Digest of the samples of the global batch, in order."""
    layout: ParallelConfig
    deterministic: bool
    setting: str
    """See `setting_of`: only steps of the same setting can agree to the bit."""


def setting_of(config: RunConfig, *, torch_version: str) -> str:
    """Short digest of what a resume may change and bits depend on: layout, compute, number of steps (the schedule), … . Pure."""
    train = config.train
    computed = (config.parallel, config.compute, train.micro_rows, train.deterministic, config.resources.device, torch_version)
    decisive = (*computed, train.num_steps)
    return codec.digest(decisive)[:12]


class Ledger:
    """The writing end, of rank 0. Make it with `build_ledger`; `close` it.

    While the store is away, records stay in memory and the thread tries again: only who waits for them, in `flush` or `close`, is told.
    """

    def __init__(self, store: ObjectStore, *, attempt: int, interval_s: float) -> None:
        self._store = store
        self._attempt = attempt
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._waiting: list[StepRecord] = []
        self._flush_wanted = False
        self._closed = False
        self._outage: StoreUnavailable | None = None
        """Why the last try to write failed; None where it did not."""
        self._error: StoreError | None = None
        """The error that ended the thread; None while it lives."""
        self._thread = threading.Thread(target=self._write_until_closed, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def append(self, record: StepRecord) -> None:
        """Returns at once. Raises the StoreError that ended the writing thread, if one did."""
        with self._changed:
            self._raise_error()
            self._waiting.append(record)
            self._changed.notify_all()

    def flush(self, step: int) -> None:
        """Returns once every record up to `step` that was appended is durable. Raises StoreError; after StoreUnavailable try again."""
        with self._changed:
            self._outage = None
            while any(record.step <= step for record in self._waiting):
                self._raise_error()
                if self._outage is not None:
                    raise self._outage
                self._flush_wanted = True
                self._changed.notify_all()
                self._changed.wait()
            self._raise_error()

    def close(self) -> None:
        """Writes what is left and ends the thread. Raises StoreError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _write_until_closed(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._flush_wanted or self._closed, timeout=self._interval_s)
                self._changed.wait_for(lambda: self._waiting or self._closed)
                segment = tuple(self._waiting)
            if not segment:
                return
            try:
                self._write(segment)
            except StoreError as error:
                self._fail(error)
                return
            with self._changed:
                del self._waiting[: len(segment)]
                self._flush_wanted = False
                self._changed.notify_all()

    def _write(self, segment: Sequence[StepRecord]) -> None:
        """Tries the very same segment again while the store is away: a write whose answer got lost may have arrived."""
        key = segment_key(self._attempt, segment[0].step, segment[-1].step)
        data = b"".join(codec.to_json(record) + b"\n" for record in segment)
        while True:
            try:
                return self._create(key, data)
            except StoreUnavailable as error:
                with self._changed:
                    if self._closed:
                        raise
                    self._outage, self._flush_wanted = error, False
                    self._changed.notify_all()
                    log.warning("the ledger can't be written, trying again: %s", error)
                    self._changed.wait_for(lambda: self._flush_wanted or self._closed, timeout=self._interval_s)

    def _create(self, key: str, data: bytes) -> None:
        try:
            self._store.create(key, data)
        except KeyExists:
            if self._store.get(key) != data:
                raise

    def _fail(self, error: StoreError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


def build_ledger(store: ObjectStore, *, attempt: int, interval_s: float = LEDGER_WRITTEN_EVERY_S) -> Ledger:
    """A running ledger for the records of `attempt`."""
    ledger = Ledger(store, attempt=attempt, interval_s=interval_s)
    ledger.start()
    return ledger


def read_ledger(store: ObjectStore) -> dict[int, list[StepRecord]]:
    """Every record of a run by attempt, in the order of writing. Raises codec.DecodeError."""
    keys = [info.key for info in store.list(LEDGER)]
    with ThreadPoolExecutor(NUM_PARALLEL_READS) as pool:
        segments = list(pool.map(store.get, keys))
    records: dict[int, list[StepRecord]] = {}
    for key, segment in zip(keys, segments, strict=True):
        attempt = attempt_of_segment(key)
        if attempt is None:
            raise codec.DecodeError(f"{key}: not a segment of a ledger; remove it")
        records.setdefault(attempt, []).extend(codec.from_json(StepRecord, line, key) for line in segment.splitlines())
    return records


def read_newest_record(store: ObjectStore, attempt: int, *, since_step: int) -> StepRecord | None:
    """The attempt's last record, found without listing what it wrote before `since_step`; None where there is none since."""
    segments = store.list(ledger_directory(attempt), after=segments_after(attempt, since_step))
    if not segments:
        return None
    key = segments[-1].key
    return codec.from_json(StepRecord, store.get(key).splitlines()[-1], key)
