"""What every step did, kept for `braid verify`: one JSON line per step, in segments that are written once. No torch.

    ledger/a0001/000000001-000000025.jsonl   steps 1 … 25 of attempt 1

A thread writes what has gathered about once a second, so that a killed worker leaves all but its last second behind. A checkpoint is
committed only after the records up to its step are durable; then, and after as many segments as one likes to read, these are compacted into
one object: see `segments`.
"""

from __future__ import annotations

import logging
import math
import threading
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from data_pipeline.store.protocol import MAY_PASS, KeyExists, KeyMissing, ObjectStore, StoreError
from model.parallel.config import ParallelConfig
from model.train.metrics import StepMetrics
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.deadlines import LEDGER_WRITTEN_EVERY_S
from orchestrator.records import segments, series
from orchestrator.records.commit_log import Commit
from orchestrator.records.keys import compacted_key, segment_key
from orchestrator.records.segments import read_lines, read_newest_line

LOOK_EVERY_S = 1.0
"""Between two looks of who waits for the writing thread whether it still lives."""
COMPACTED_AFTER = 64
"""Segments that the thread has written since it compacted; checkpoints may be hours apart."""
SINCE_TOKEN_DIGEST = SINCE_UNREAD = SINCE_TIMES = {"omit_default": True}
"""Of what records before had not: left out at its default."""
MEASURE = "loss without z-loss"
"""What `loss` is: earlier versions recorded another number, so that their steps can't be compared to the bit."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord(StepMetrics):
    """A line of the ledger: what the step measured, every bit of it, and what it was of."""

    step: int
    attempt: int
    samples: str
    """Digest of the samples of the global batch: see `data_pipeline.dataset.plan.planned_digest`."""
    layout: ParallelConfig
    deterministic: bool
    setting: str
    """See `setting_of`: only steps of the same setting can agree to the bit."""
    token_digest: str = field(default="", metadata=SINCE_TOKEN_DIGEST)
    """Digest of the tokens of the global batch: see `data_pipeline.order.samples.digest_of_token_sums`."""
    unread_rows: int = field(default=0, metadata=SINCE_UNREAD)
    """Rows of the global batch that could not be read: nothing was learnt from them, and the tokens in their place are eos."""
    repetitive_rows: int = field(default=0, metadata=SINCE_UNREAD)
    """Rows of the global batch that were read, and left out by `data.repetition_filter`."""
    ended_at_s: float = field(default=0.0, metadata=SINCE_TIMES)
    """When the step was over, evaluation included: seconds since the epoch by the first rank's clock; 0 in records of earlier versions.

    The three below are the first rank's, and parts of the time since the attempt's step before was over.
    """
    data_wait_s: float = field(default=0.0, metadata=SINCE_TIMES)
    """Waited for the step's batch."""
    checkpoint_s: float = field(default=0.0, metadata=SINCE_TIMES)
    """Training stood still for a snapshot or checkpoint, or for what was in its way, after the step before. What the last step of an
    attempt waits for in its end is in no record."""
    eval_s: float = field(default=0.0, metadata=SINCE_TIMES)
    """Held-out text was looked at after the update."""


def _column_defaults() -> dict[str, float]:
    hints = typing.get_type_hints(StepRecord)
    absent: dict[Any, float] = {bool: False, int: 0, float: math.nan, float | None: math.nan}
    found = {one.name: (one, absent[hints[one.name]]) for one in fields(StepRecord) if hints[one.name] in absent}
    return {name: one.default if isinstance(one.default, bool | int | float) else value for name, (one, value) in found.items()}


COLUMNS = _column_defaults()
"""What of a record is a number, and what stands for it where a record has none: no number for a metric, 0 for a time that is not known."""


def setting_of(config: RunConfig, *, torch_version: str) -> str:
    """Short digest of what a resume may change and bits depend on: layout, compute, number of steps (the schedule), … . Pure."""
    train = config.train
    computed = (config.parallel, config.compute, train.micro_rows, train.deterministic, config.resources.device, torch_version)
    in_phases = [phase.micro_rows for phase in config.data.phases]
    decisive = (*computed, train.num_steps, MEASURE, *([in_phases] if any(in_phases) else []))
    return codec.digest(decisive)[:12]


class Ledger:
    """The writing end, of rank 0. Make it with `build_ledger`; `close` it.

    While the store is away or refuses, records stay in memory and the thread tries again: only who waits for them is told.
    """

    def __init__(self, store: ObjectStore, *, attempt: int, interval_s: float) -> None:
        self._store = store
        self._attempt = attempt
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._waiting: list[StepRecord] = []
        self._flush_wanted = False
        self._closed = False
        self._outage: StoreError | None = None
        """Why the last try to write failed; None where it did not."""
        self._error: BaseException | None = None
        """The error that ended the thread; None while it lives."""
        self._compacting = threading.Lock()
        self._num_segments = 0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def append(self, record: StepRecord) -> None:
        """Returns at once. Raises the error that ended the writing thread, if one did."""
        with self._changed:
            self._raise_error()
            self._waiting.append(record)
            self._changed.notify_all()

    def flush(self, step: int) -> None:
        """Returns once every record up to `step` that was appended is durable.

        Raises what ended the writing thread, or one of MAY_PASS: after that try again.
        """
        with self._changed:
            self._outage = None
            while any(record.step <= step for record in self._waiting):
                self._raise_error()
                if self._outage is not None:
                    raise self._outage
                if not self._thread.is_alive():
                    raise RuntimeError("the ledger's thread has ended and left records unwritten")
                self._flush_wanted = True
                self._changed.notify_all()
                self._changed.wait(LOOK_EVERY_S)
            self._raise_error()

    def hurry(self) -> None:
        """Has what is waiting written at once, rather than with what comes within a second. Returns at once."""
        with self._changed:
            self._flush_wanted = True
            self._changed.notify_all()

    def is_durable(self, step: int, *, within_s: float = 0.0) -> bool:
        """Whether every record up to `step` that was appended is durable, or is so within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: all(record.step > step for record in self._waiting), within_s)

    def compact(self, step: int) -> None:
        """Makes one object of the segments up to `step`, after `flush(step)`. Failing to is not worth a run."""
        try:
            with self._compacting:
                segments.compact(self._store, attempt=self._attempt, step=step)
                series.extend(self._store, COLUMNS, attempt=self._attempt)
        except (StoreError, codec.DecodeError) as error:
            log.warning("the ledger's segments could not be compacted, will try again later: %s", error)

    def close(self) -> None:
        """Writes what is left and ends the thread. Raises the error that ended it before, if one did."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._write_until_closed()
        except BaseException as error:  # noqa: BLE001  whoever waits must hear of it, whatever it is
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _write_until_closed(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._flush_wanted or self._closed, timeout=self._interval_s)
                self._changed.wait_for(lambda: self._waiting or self._closed)
                segment = tuple(self._waiting)
            if not segment:
                return
            self._write(segment)
            with self._changed:
                del self._waiting[: len(segment)]
                self._flush_wanted = False
                self._changed.notify_all()
            self._num_segments = (self._num_segments + 1) % COMPACTED_AFTER
            if not self._num_segments:
                self.compact(segment[-1].step)

    def _write(self, segment: Sequence[StepRecord]) -> None:
        """Tries the very same segment again while the store is away or refuses: a write whose answer got lost may have arrived."""
        key = segment_key(self._attempt, segment[0].step, segment[-1].step)
        data = b"".join(codec.to_json(record) + b"\n" for record in segment)
        while True:
            try:
                return self._create(key, data)
            except MAY_PASS as error:
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


def build_ledger(store: ObjectStore, *, attempt: int, interval_s: float = LEDGER_WRITTEN_EVERY_S) -> Ledger:
    """A running ledger for the records of `attempt`."""
    ledger = Ledger(store, attempt=attempt, interval_s=interval_s)
    ledger.start()
    return ledger


def read_ledger(store: ObjectStore) -> dict[int, list[StepRecord]]:
    """Every record of a run by attempt, in the order of writing. Raises codec.DecodeError, also where a part was changed or is missing."""
    return {
        attempt: [codec.from_json(StepRecord, line, key) for key, line in lines] for attempt, lines in sorted(read_lines(store).items())
    }


def read_columns(store: ObjectStore, *, last_attempt: int) -> dict[int, series.Columns]:
    """What of the records of the attempts up to that one, and begun since, is numbers: by attempt, and by field a value for each step.

    Steps ascend, each is there once, and 1,000,000 of them are read in a second. Raises StoreError, codec.DecodeError.
    """
    return series.read(store, COLUMNS, last_attempt=last_attempt)


def read_newest_record(store: ObjectStore, attempt: int, *, since_step: int) -> StepRecord | None:
    """The attempt's last record, found without listing what it wrote before `since_step`; None where there is none since."""
    lines = read_newest_line(store, attempt, since_step=since_step)
    return max((codec.from_json(StepRecord, line, key) for key, line in lines), key=lambda record: record.step, default=None)


def record_of_commit(store: ObjectStore, commit: Commit) -> StepRecord | None:
    """The record of the step that a checkpoint was taken after; None where its stretch of the ledger is not compacted yet."""
    key = compacted_key(commit.attempt, commit.step)
    try:
        return codec.from_json(StepRecord, segments.decode(store.get(key), key).lines[-1], key)
    except KeyMissing:
        return None
