"""The ledger's numbers as columns: the same as its lines say, in few objects, whatever a crash or a disk left of them."""

import json
import logging
import math
import time

import numpy as np
import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.codec import DecodeError
from orchestrator.records import segments, series
from orchestrator.records.keys import SERIES, segment_key
from orchestrator.records.ledger import COLUMNS, read_columns
from tests.fakes.memory_store import MemoryStore

EVERY = 10
"""Steps from checkpoint to checkpoint."""


def line(step: int, **more: object) -> bytes:
    return json.dumps({"step": step, "loss": 9 - step / 7, "tokens": 64, "samples": "f00", "layout": {"tp": 1}} | more).encode()


def write(store: MemoryStore, first: int, last: int, *, attempt: int = 1, **more: object) -> None:
    store.create(segment_key(attempt, first, last), b"".join(line(step, **more) + b"\n" for step in range(first, last + 1)))


def checkpoint(store: MemoryStore, step: int, *, attempt: int = 1) -> None:
    segments.compact(store, attempt=attempt, step=step)
    series.extend(store, COLUMNS, attempt=attempt)


def trained(num_steps: int, *, first: int = 1, attempt: int = 1, store: MemoryStore | None = None) -> MemoryStore:
    """A run with a checkpoint every ten steps, and half as many steps behind the last one."""
    store = store or MemoryStore()
    for begin in range(first, first + num_steps, EVERY):
        write(store, begin, begin + EVERY - 1, attempt=attempt)
        checkpoint(store, begin + EVERY - 1, attempt=attempt)
    write(store, first + num_steps, first + num_steps + EVERY // 2 - 1, attempt=attempt)
    return store


def steps_of(store: MemoryStore, attempt: int = 1) -> list[int]:
    return read_columns(store, last_attempt=attempt)[attempt]["step"].tolist()


def series_in(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if key.startswith(SERIES)]


def test_columns_say_what_the_lines_say_to_the_bit():
    store = MemoryStore()
    write(store, 1, 3, eval_loss=2.5, skipped=True)
    checkpoint(store, 3)
    write(store, 4, 4)

    columns = read_columns(store, last_attempt=1)[1]
    assert columns["step"].tolist() == [1, 2, 3, 4]
    assert columns["loss"].tolist() == [9 - step / 7 for step in (1, 2, 3, 4)]
    assert columns["tokens"].dtype.kind == "i"
    assert columns["skipped"].tolist() == [True, True, True, False]
    assert columns["eval_loss"].tolist()[:3] == [2.5] * 3
    assert math.isnan(columns["eval_loss"][3]), "none was measured"
    assert columns["ended_at_s"].tolist() == [0.0] * 4, "as in records of earlier versions"
    assert "samples" not in columns


def test_a_long_run_has_few_objects_and_each_step_once():
    store = trained(3000)
    sizes = [len(store.objects[key]) for key in series_in(store)]

    assert len(sizes) <= math.log2(3000 / EVERY) + 1
    assert sizes == sorted(sizes, reverse=True)
    assert steps_of(store) == list(range(1, 3006))


def test_objects_grow_no_larger_than_one_is_read_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(series, "MAX_BYTES", 20_000)
    store = trained(3000)

    assert max(len(store.objects[key]) for key in series_in(store)) <= 20_000
    assert steps_of(store) == list(range(1, 3006))


def test_each_attempt_has_its_own():
    store = trained(30)
    trained(20, first=21, attempt=2, store=store)

    assert steps_of(store, 1) == list(range(1, 36))
    assert steps_of(store, 2) == list(range(21, 46))
    assert list(read_columns(store, last_attempt=1)) == [1, 2], "one that has begun since is read too"


def test_a_run_of_before_is_read_from_its_lines_and_what_it_does_from_now_on_from_both():
    store = MemoryStore()
    for begin in (1, 11):
        write(store, begin, begin + 9)
        segments.compact(store, attempt=1, step=begin + 9)
    assert steps_of(store) == list(range(1, 21))

    write(store, 21, 30)
    checkpoint(store, 30)
    assert series_in(store) == ["ledger-series/a0001/000000000-000000030.columns"]
    assert steps_of(store) == list(range(1, 31))


def test_a_damaged_object_costs_a_warning_and_its_steps_are_read_from_their_lines(caplog: pytest.LogCaptureFixture):
    store = trained(70)
    expected = read_columns(store, last_attempt=1)[1]
    for key in series_in(store):
        whole = store.objects[key]
        store.objects[key] = whole[:-1] + bytes([whole[-1] ^ 1])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = read_columns(store, last_attempt=1)[1]
        assert f"{key}: is not what was written" in caplog.text
        assert all(np.array_equal(found[name], values, equal_nan=True) for name, values in expected.items())
        store.objects[key] = whole


def test_a_deleted_object_costs_nothing_and_is_made_again():
    store = trained(70)
    first, *_ = series_in(store)
    del store.objects[first]
    assert steps_of(store) == list(range(1, 76))

    checkpoint(store, 75)
    assert series_in(store) == ["ledger-series/a0001/000000000-000000075.columns"]
    assert steps_of(store) == list(range(1, 76))


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_a_crash_while_objects_are_merged_leaves_each_step_once(operation: str):
    store = trained(30)

    def crash(one: str, key: str) -> None:
        if one == operation and key.startswith(SERIES):
            raise StoreUnavailable("gone")

    store.fault = crash
    with pytest.raises(StoreUnavailable):
        checkpoint(store, 35)
    store.fault = lambda operation, key: None
    assert steps_of(store) == list(range(1, 36))

    write(store, 36, 60)
    checkpoint(store, 60)
    assert steps_of(store) == list(range(1, 61))
    assert len(series_in(store)) <= 2, "what was left behind is gone"


def test_a_changed_line_is_no_matter_of_columns():
    store = trained(20)
    for key in series_in(store):
        del store.objects[key]
    store.objects["ledger-upto/a0001/000000010.jsonl"] += b"{}"

    with pytest.raises(DecodeError, match="is not what was written"):
        steps_of(store)


def test_a_million_steps_are_read_in_a_moment():
    """In few objects; how long that takes is told, not asserted."""
    store, steps = MemoryStore(), np.arange(1, 1_000_001)
    chance = np.random.default_rng(0)
    whole = {name: np.full(len(steps), default) for name, default in COLUMNS.items()}
    whole |= {"step": steps, "loss": chance.random(len(steps)), "grad_norm": chance.random(len(steps)), "ended_at_s": 0.4 * steps}
    for after in range(0, 1_000_000, 50_000):
        part = {name: values[after : after + 50_000] for name, values in whole.items()}
        store.objects[f"ledger-series/a0001/{after:09d}-{after + 50_000:09d}.columns"] = series.encode(part)
    began_s = time.monotonic()
    columns = read_columns(store, last_attempt=1)[1]
    print(f"{time.monotonic() - began_s:.2f} s")

    assert np.array_equal(columns["loss"], whole["loss"])
    assert len(columns["step"]) == 1_000_000
