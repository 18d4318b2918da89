"""The step ledger as columns."""

import math
from pathlib import Path

import pytest

from launch.runs.record import read_run, run_store_of
from launch.ui.ledger import LedgerColumns, records_after
from orchestrator.codec import DecodeError
from orchestrator.records import segments
from orchestrator.records.keys import segment_key
from tests.fakes.memory_store import MemoryStore
from tests.launch.stored_runs import FINISHED, RUNNING, put_steps, store_at, stored_run


def test_what_is_new_is_added_and_compacting_changes_nothing(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    put_steps(tmp_path, 1, range(1, 11))
    record, columns = read_run(config.storage, "first"), LedgerColumns()
    assert columns.read(record).newest["step"].tolist() == list(range(1, 11))
    put_steps(tmp_path, 1, range(11, 21))
    found = columns.read(record)
    assert found.newest["loss"].tolist() == [9.0 - step / 10 for step in range(1, 21)]
    assert columns.read(record) is found, "nothing is new"
    segments.compact(record.run_store, attempt=1, step=20)
    put_steps(tmp_path, 1, range(21, 23))
    assert columns.read(record).newest["step"].tolist() == list(range(1, 23))


def test_a_look_for_what_is_new_reads_nothing_else() -> None:
    read: list[str] = []
    store = MemoryStore(fault=lambda operation, key: read.append(key) if operation == "get" else None)
    for first in (1, 11):
        lines = b"".join(b'{"step": %d, "attempt": 1, "loss": 1.0}\n' % step for step in range(first, first + 10))
        store.create(segment_key(1, first, first + 9), lines)
    found = records_after(store, attempt=1, step=10)
    assert found is not None
    assert found["step"].tolist() == list(range(11, 21))
    assert read == [segment_key(1, 11, 20)]
    assert records_after(store, attempt=1, step=20) is None


def test_of_steps_that_were_trained_again_the_newest_counts_and_speed_does_not_cross_attempts(tmp_path: Path) -> None:
    config = stored_run(tmp_path, FINISHED, "train.num_steps=40")
    columns, record = LedgerColumns(), read_run(config.storage, "first")
    for attempt, steps in ((1, range(19, 34)), (2, range(21, 41))):
        for step in steps:
            put_steps(tmp_path, attempt, range(step, step + 1), ended_at_s=1000.0 * attempt + 2 * step, data_wait_s=0.5)
        found = columns.read(record)
    assert found.newest["attempt"].tolist() == [1] * 2 + [2] * 20
    assert [math.isnan(one) for one in found.newest["step_s"]] == [True, False, True, *[False] * 19]
    assert found.newest["tokens_per_s"][-1] == 512.0
    assert found.step_s == 2.0


def test_records_of_earlier_versions_know_no_times(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    columns, record = LedgerColumns(), read_run(config.storage, "first")
    assert columns.read(record).step_s is None
    put_steps(tmp_path, 1, range(1, 4), loss=math.nan)
    found = columns.read(record).newest
    assert all(map(math.isnan, [*found["loss"], *found["tokens_per_s"], *found["ended_at_s"], *found["data_wait_s"]]))


def test_a_damaged_part_is_told(tmp_path: Path) -> None:
    config = stored_run(tmp_path, RUNNING)
    run_store_of(store_at(tmp_path), "first").put(segment_key(1, 1, 2), b'{"step": 1\n')
    with pytest.raises(DecodeError):
        LedgerColumns().read(read_run(config.storage, "first"))
