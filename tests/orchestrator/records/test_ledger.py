"""Records of every step: durable in time, complete, exact to the bit."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from data_pipeline.store.protocol import AccessDenied, BucketMissing, KeyExists, StoreError, StoreUnavailable
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.codec import DecodeError
from orchestrator.records.ledger import COMPACTED_AFTER, Ledger, StepRecord, build_ledger, read_ledger, read_newest_record
from tests.fakes.memory_store import MemoryStore

NEVER_S = 1e6
pytestmark = pytest.mark.timeout(60)
"""A ledger that is broken fails these tests, and soon, rather than hold them up."""


def record(step: int, *, attempt: int = 1, loss: float = 5.5) -> StepRecord:
    return StepRecord(
        step=step,
        attempt=attempt,
        loss=loss,
        grad_norm=1.25,
        tokens=64,
        samples=f"{step:064x}",
        layout=ParallelConfig(),
        deterministic=True,
        setting="",
    )


LedgerOf = Callable[..., Ledger]


@pytest.fixture
def ledger_of() -> Iterator[LedgerOf]:
    """Builds ledgers that end with the test, so that one which fails leaves no thread behind."""
    built: list[Ledger] = []

    def build(store: MemoryStore, *, attempt: int = 1, interval_s: float = NEVER_S) -> Ledger:
        built.append(build_ledger(store, attempt=attempt, interval_s=interval_s))
        return built[-1]

    yield build
    for ledger in built:
        with suppress(StoreError, RuntimeError, MemoryError):
            ledger.close()


def test_a_flush_makes_every_record_so_far_durable(ledger_of: LedgerOf):
    store = MemoryStore()
    ledger = ledger_of(store)
    ledger.append(record(1))
    ledger.append(record(2))
    ledger.flush(2)

    assert read_ledger(store) == {1: [record(1), record(2)]}
    assert list(store.objects) == ["ledger/a0001/000000001-000000002.jsonl"]
    ledger.close()


def test_records_become_durable_by_themselves(ledger_of: LedgerOf):
    store, written = MemoryStore(), threading.Event()
    store.fault = lambda operation, key: written.set() if operation == "create" else None
    ledger = ledger_of(store, interval_s=0.01)
    ledger.append(record(1))

    assert written.wait(timeout=30)
    ledger.close()
    assert read_ledger(store) == {1: [record(1)]}


def test_closing_writes_the_rest(ledger_of: LedgerOf):
    store = MemoryStore()
    ledger = ledger_of(store)
    ledger.append(record(1))
    ledger.flush(1)
    ledger.append(record(2))
    ledger.close()

    assert read_ledger(store)[1] == [record(1), record(2)]


def test_flushing_an_empty_ledger_returns(ledger_of: LedgerOf):
    ledger = ledger_of(MemoryStore())
    ledger.flush(7)
    ledger.close()


@pytest.mark.parametrize("loss", [0.1 + 0.2, 5e-324, -0.0, math.inf, math.nan, 1.7976931348623157e308])
def test_floats_keep_every_bit(ledger_of: LedgerOf, loss: float):
    store = MemoryStore()
    ledger = ledger_of(store)
    ledger.append(record(1, loss=loss))
    ledger.close()

    assert read_ledger(store)[1][0].loss.hex() == loss.hex()


def test_the_background_waits_for_a_store_that_is_away(ledger_of: LedgerOf):
    store, outages = MemoryStore(), iter([True, True, False])
    recovered = threading.Event()

    def flicker(operation: str, key: str) -> None:
        if next(outages):
            raise StoreUnavailable("no answer")
        recovered.set()

    store.fault = flicker
    ledger = ledger_of(store, interval_s=0.01)
    ledger.append(record(1))
    assert recovered.wait(timeout=30)
    ledger.append(record(2))
    store.fault = lambda operation, key: None
    ledger.close()

    assert read_ledger(store)[1] == [record(1), record(2)]


def away(operation: str, key: str) -> None:
    raise StoreUnavailable("no answer")


def test_an_outage_costs_a_checkpoint_but_no_record(ledger_of: LedgerOf):
    store = MemoryStore(fault=away)
    ledger = ledger_of(store)
    ledger.append(record(1))
    with pytest.raises(StoreUnavailable):
        ledger.flush(1)
    ledger.append(record(2))
    store.fault = lambda operation, key: None

    ledger.flush(2)

    assert read_ledger(store)[1] == [record(1), record(2)]
    ledger.close()


def test_the_end_can_not_go_on_without_the_store(ledger_of: LedgerOf):
    ledger = ledger_of(MemoryStore(fault=away))
    ledger.append(record(1))

    with pytest.raises(StoreUnavailable):
        ledger.close()


def test_an_outage_while_a_lost_answer_is_looked_into_passes(ledger_of: LedgerOf):
    store = MemoryStore()
    arrived = ledger_of(store)
    arrived.append(record(1))
    arrived.close()
    store.fault = lambda operation, key: away(operation, key) if operation == "get" else None
    ledger = ledger_of(store)
    ledger.append(record(1))
    with pytest.raises(StoreUnavailable):
        ledger.flush(1)
    store.fault = lambda operation, key: None

    ledger.flush(1)

    assert read_ledger(store) == {1: [record(1)]}
    ledger.close()


def test_an_error_that_stays_shows_at_the_next_step(ledger_of: LedgerOf):
    store, tried = MemoryStore(), threading.Event()

    def refuse(operation: str, key: str) -> None:
        tried.set()
        raise AccessDenied("no")

    store.fault = refuse
    ledger = ledger_of(store, interval_s=0.01)
    ledger.append(record(1))
    assert tried.wait(timeout=30)

    with pytest.raises(AccessDenied):
        ledger.close()


def refused(operation: str, key: str) -> None:
    raise BucketMissing("no")


def test_whatever_ends_the_thread_is_told_at_every_end(ledger_of: LedgerOf):
    """Once the thread has ended nothing more is written, and nobody waits for it."""
    store, keys = MemoryStore(), []

    def refuse(operation: str, key: str) -> None:
        keys.append(key)
        raise MemoryError("of another kind than the store's own errors")

    store.fault = refuse
    ledger = ledger_of(store)
    ledger.append(record(1))
    for meet in (lambda: ledger.flush(1), lambda: ledger.append(record(2)), lambda: ledger.flush(2), ledger.close):
        with pytest.raises(MemoryError, match="of another kind"):
            meet()

    assert keys == ["ledger/a0001/000000001-000000001.jsonl"]


def test_nothing_is_written_after_an_error_that_stays(ledger_of: LedgerOf):
    """A later segment would hide that one before it is missing."""
    store = MemoryStore(fault=refused)
    ledger = ledger_of(store)
    ledger.append(record(1))
    with pytest.raises(BucketMissing):
        ledger.flush(1)
    store.fault = lambda operation, key: None

    with pytest.raises(BucketMissing):
        ledger.append(record(2))
    with pytest.raises(BucketMissing):
        ledger.close()
    assert store.objects == {}


def test_what_gathered_while_a_segment_was_refused_for_good_is_not_written_either(ledger_of: LedgerOf):
    store, keys = MemoryStore(), []

    def refuse_the_first(operation: str, key: str) -> None:
        keys.append(key)
        if len(keys) == 1:
            ledger.append(record(2))
            raise BucketMissing("no")

    store.fault = refuse_the_first
    ledger = ledger_of(store)
    ledger.append(record(1))

    with pytest.raises(BucketMissing):
        ledger.flush(2)
    with pytest.raises(BucketMissing):
        ledger.close()
    assert store.objects == {}


@pytest.mark.parametrize("error", [StoreUnavailable, AccessDenied])
def test_credentials_that_hiccup_end_a_ledger_as_little_as_a_store_that_is_away(ledger_of: LedgerOf, error: type[StoreError]):
    """Training goes on, and its records are written once the store takes them."""
    store = MemoryStore()

    def fail(operation: str, key: str) -> None:
        raise error("not now")

    store.fault = fail
    ledger = ledger_of(store, interval_s=0.01)
    ledger.append(record(1))
    with pytest.raises(error, match="not now"):
        ledger.flush(1)
    ledger.append(record(2))
    store.fault = lambda operation, key: None
    ledger.append(record(3))
    ledger.flush(3)

    assert [one.step for one in read_ledger(store)[1]] == [1, 2, 3]


def test_who_waits_for_a_flush_hears_of_its_end(ledger_of: LedgerOf, monkeypatch: pytest.MonkeyPatch):
    """Without looking again by itself."""
    monkeypatch.setattr("orchestrator.records.ledger.LOOK_EVERY_S", NEVER_S)
    ledger = ledger_of(MemoryStore())
    ledger.append(record(1))

    ledger.flush(1)


def test_a_flush_is_once_and_what_comes_after_it_gathers_again(ledger_of: LedgerOf):
    """Else every step would be an object of its own."""
    written = threading.Event()
    store = MemoryStore()
    ledger = ledger_of(store)
    ledger.append(record(1))
    ledger.flush(1)
    store.fault = lambda operation, key: written.set()
    ledger.append(record(2))
    assert not written.wait(timeout=0.2)
    ledger.append(record(3))
    ledger.flush(3)

    assert [key.rpartition("/")[2] for key in sorted(store.objects)] == ["000000001-000000001.jsonl", "000000002-000000003.jsonl"]


def test_nobody_waits_for_a_thread_that_is_not_there(ledger_of: LedgerOf):
    ledger = ledger_of(MemoryStore())
    ledger.close()
    ledger.append(record(1))

    with pytest.raises(RuntimeError, match="has ended and left records unwritten"):
        ledger.flush(1)


def test_a_process_may_end_without_closing_its_ledger(ledger_of: LedgerOf):
    ledger_of(MemoryStore())

    assert {thread.daemon for thread in threading.enumerate() if thread.name == "ledger"} == {True}


def test_a_write_whose_answer_got_lost_is_not_written_twice(ledger_of: LedgerOf):
    arrived = threading.Event()

    class LosesTheFirstAnswer(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            if not arrived.is_set():
                arrived.set()
                raise StoreUnavailable("no answer")

    store = LosesTheFirstAnswer()
    ledger = ledger_of(store, interval_s=0.01)
    ledger.append(record(1))
    assert arrived.wait(timeout=30)
    ledger.append(record(2))
    ledger.close()

    assert read_ledger(store)[1] == [record(1), record(2)]


def test_another_writer_of_the_same_segment_is_an_error(ledger_of: LedgerOf):
    store = MemoryStore(objects={"ledger/a0001/000000001-000000001.jsonl": b"not ours"})
    ledger = ledger_of(store)
    ledger.append(record(1))

    with pytest.raises(KeyExists):
        ledger.flush(1)


def test_segments_are_read_in_the_order_of_attempts_and_steps(ledger_of: LedgerOf):
    store = MemoryStore()
    for attempt, steps in ((1, (1, 2)), (2, (2, 3))):
        ledger = ledger_of(store, attempt=attempt)
        for step in steps:
            ledger.append(record(step, attempt=attempt))
            ledger.flush(step)
        ledger.close()

    assert {attempt: [one.step for one in records] for attempt, records in read_ledger(store).items()} == {1: [1, 2], 2: [2, 3]}


def test_a_line_that_is_no_record_is_an_error_that_names_its_segment():
    store = MemoryStore(objects={"ledger/a0001/000000001-000000001.jsonl": b'{"step": 1}\n'})

    with pytest.raises(DecodeError, match=r"^ledger/a0001/000000001-000000001.jsonl"):
        read_ledger(store)


def test_the_bytes_of_a_line():
    line = codec.to_json(replace(record(7, attempt=2, loss=0.1 + 0.2), skipped=True, layout=ParallelConfig(dp_shard=2), samples="ab"))

    assert line == (
        b'{"attempt":2,"deterministic":true,"grad_norm":1.25,"layout":{"cp":1,"dp_replicate":1,"dp_shard":2,"tp":1},'
        b'"loss":0.30000000000000004,"samples":"ab","setting":"","skipped":true,"step":7,"tokens":64}'
    )


def test_a_line_from_before_a_metric_existed_is_read_with_its_default():
    old = codec.to_plain(record(7))
    del old["skipped"]

    assert codec.from_plain(StepRecord, old) == record(7)


def test_the_newest_record_of_an_attempt_is_found_without_what_came_before(ledger_of: LedgerOf):
    store = MemoryStore()
    ledger = ledger_of(store)
    for step in (1, 2, 3):
        ledger.append(record(step))
        ledger.flush(step)
    ledger.close()

    assert read_newest_record(store, 1, since_step=2) == record(3)
    assert read_newest_record(store, 1, since_step=4) is None
    assert read_newest_record(store, 2, since_step=0) is None


def recorded(ledger_of: LedgerOf, store: MemoryStore, *steps: int) -> Ledger:
    """A ledger with a segment for each of the steps."""
    ledger = ledger_of(store)
    for step in steps:
        ledger.append(record(step))
        ledger.flush(step)
    return ledger


def test_the_newest_record_is_found_wherever_compaction_left_it(ledger_of: LedgerOf):
    store = MemoryStore()
    ledger = recorded(ledger_of, store, 1, 2, 3, 4)
    left_behind = dict(store.objects)
    ledger.compact(4)

    assert read_newest_record(store, 1, since_step=3) == record(4)
    assert read_newest_record(store, 1, since_step=5) is None
    store.objects |= {key: data for key, data in left_behind.items() if "000000002" in key}
    assert read_newest_record(store, 1, since_step=2) == record(4)
    ledger.append(record(5))
    ledger.flush(5)
    assert read_newest_record(store, 1, since_step=4) == record(5)


def test_the_newest_record_is_found_while_it_is_compacted(ledger_of: LedgerOf):
    store = MemoryStore()
    ledger = recorded(ledger_of, store, 1, 2)

    def compact_once(operation: str, key: str) -> None:
        if operation == "get":
            store.fault = lambda operation, key: None
            ledger.compact(2)

    store.fault = compact_once

    assert read_newest_record(store, 1, since_step=1) == record(2)


def test_between_checkpoints_that_are_hours_apart_segments_stay_few(ledger_of: LedgerOf):
    store = MemoryStore()
    ledger = recorded(ledger_of, store, *range(1, 3 * COMPACTED_AFTER + 2))
    ledger.close()

    compacted = [f"ledger-upto/a0001/{step:09d}.jsonl" for step in (64, 128, 192)]
    columns = "ledger-series/a0001/000000000-000000192.columns"
    assert sorted(store.objects) == sorted(["ledger/a0001/000000193-000000193.jsonl", *compacted, columns])
    assert [one.step for one in read_ledger(store)[1]] == [*range(1, 194)]


def test_a_ledger_that_can_not_be_compacted_goes_on(ledger_of: LedgerOf, caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    ledger = recorded(ledger_of, store, 1, 2)
    store.fault = away
    ledger.compact(2)
    store.fault = lambda operation, key: None
    store.put("ledger-upto/a0001/000000001.jsonl", b"broken")
    ledger.compact(2)

    assert [line.getMessage().partition(":")[0] for line in caplog.records] == [
        "the ledger's segments could not be compacted, will try again later"
    ] * 2
    del store.objects["ledger-upto/a0001/000000001.jsonl"]
    assert read_ledger(store)[1] == [record(1), record(2)]
