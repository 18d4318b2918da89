"""The step ledger as columns."""

import math
from pathlib import Path

import pytest

from data_pipeline.store.protocol import ObjectStore
from launch.runs.record import run_store_of
from launch.ui.ledger import LedgerColumns
from orchestrator.codec import DecodeError
from orchestrator.records import segments
from orchestrator.records.keys import segment_key
from tests.launch.stored_runs import RUNNING, put_steps, store_at, stored_run


class Counted:
    """A store that counts what is read."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.read: list[str] = []

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return self._store.get(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_only_what_is_new_is_read_and_compacting_changes_nothing(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    put_steps(tmp_path, 1, range(1, 11))
    run_store = run_store_of(store_at(tmp_path), "first")
    counted = Counted(run_store)
    columns = LedgerColumns(counted)  # type: ignore[arg-type]
    assert columns.read()["step"].tolist() == list(range(1, 11))
    put_steps(tmp_path, 1, range(11, 21))
    assert columns.read()["loss"].tolist() == [9.0 - step / 10 for step in range(1, 21)]
    columns.read()
    assert len(counted.read) == 2
    segments.compact(run_store, attempt=1, step=20)
    assert columns.read()["step"].tolist() == list(range(1, 21))
    assert len(counted.read) == 3


def test_without_times_there_is_no_speed_and_it_does_not_break(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    columns = LedgerColumns(run_store_of(store_at(tmp_path), "first"))
    assert len(columns.read()["step"]) == 0
    put_steps(tmp_path, 1, range(1, 4), loss=math.nan)
    found = columns.read()
    assert all(map(math.isnan, [*found["loss"], *found["tokens_per_s"], *found["ended_at_s"]]))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    stored_run(tmp_path, RUNNING)
    run_store = run_store_of(store_at(tmp_path), "first")
    run_store.put(segment_key(1, 1, 2), b'{"step": 1\n')
    with pytest.raises(DecodeError, match=r"^ledger/a0001/000000001-000000002\.jsonl: not a part of a ledger"):
        LedgerColumns(run_store).read()
