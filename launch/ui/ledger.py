"""A run's step ledger as columns, of which only what is new is read again."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_pipeline.store.protocol import KeyMissing, ObjectStore
from launch.ui.curves import Column, newest_of_each_step
from orchestrator.codec import DecodeError
from orchestrator.records.keys import COMPACTED_LEDGER, LEDGER

FIELDS = ("step", "attempt", "loss", "grad_norm", "tokens", "eval_loss", "ended_at_s", "data_wait_s")
"""Fields of StepRecord; one that a record lacks is not a number."""
NUM_PARALLEL_READS = 16
NOTHING = {name: np.zeros(0) for name in FIELDS}


class LedgerColumns:
    """What is written is never changed, so an object that was read is not read again. For one thread at a time."""

    def __init__(self, run_store: ObjectStore) -> None:
        self._run_store = run_store
        self._parts: dict[str, dict[str, Column]] = {}
        self._whole: dict[str, Column] = NOTHING

    def read(self) -> dict[str, Column]:
        """The newest attempt's record of every step, sorted by step, and `tokens_per_s` where records say when a step ended."""
        keys = [info.key for prefix in (LEDGER, COMPACTED_LEDGER) for info in self._run_store.list(prefix)]
        new = [key for key in keys if key not in self._parts]
        gone = self._parts.keys() - keys
        if new or gone:
            with ThreadPoolExecutor(NUM_PARALLEL_READS) as pool:
                self._parts.update({key: part for key, part in zip(new, pool.map(self._part, new), strict=True) if part is not None})
            for key in gone:
                del self._parts[key]
            self._whole = _with_speed(newest_of_each_step(_joined(list(self._parts.values()))))
        return self._whole

    def _part(self, key: str) -> dict[str, Column] | None:
        """None where it was compacted since it was listed: the next look finds what took its place."""
        try:
            data = self._run_store.get(key)
        except KeyMissing:
            return None
        return columns_of(data, key)


def columns_of(data: bytes, key: str) -> dict[str, Column]:
    """The records among the lines of an object of the ledger. Raises DecodeError."""
    try:
        records = [one for one in json.loads(b"[" + b",".join(data.splitlines()) + b"]") if "step" in one]
    except ValueError as error:
        raise DecodeError(f"{key}: not a part of a ledger ({error}); restore it from the bucket's versions or a backup") from error
    return {name: np.array([_number(one.get(name)) for one in records], dtype=np.float64) for name in FIELDS}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _joined(parts: list[dict[str, Column]]) -> dict[str, Column]:
    return {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in FIELDS}


def _with_speed(columns: dict[str, Column]) -> dict[str, Column]:
    """Speed from the end of the step before to this one's, within an attempt."""
    took_s = np.diff(columns["ended_at_s"], prepend=np.nan)
    follows = np.diff(columns["step"], prepend=np.nan) == 1
    is_known = follows & (np.diff(columns["attempt"], prepend=np.nan) == 0) & (took_s > 0)
    speed = np.where(is_known, columns["tokens"] / np.where(is_known, took_s, 1.0), np.nan)
    return {**columns, "tokens_per_s": speed, "step_s": np.where(is_known, took_s, np.nan)}
