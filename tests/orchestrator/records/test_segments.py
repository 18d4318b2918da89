"""The ledger's lines as they lie on the store: few objects, each line once, whatever a crash or another writer left."""

import pytest

from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.codec import DecodeError
from orchestrator.records.keys import segment_key
from orchestrator.records.segments import compact, read_lines
from tests.fakes.memory_store import MemoryStore


def line(step: int, text: str = "") -> bytes:
    return f'{{"step":{step}{text}}}'.encode()


def written(*segments: tuple[int, int], attempt: int = 1) -> MemoryStore:
    """A store with the segments of those steps."""
    store = MemoryStore()
    for segment in segments:
        write(store, segment, attempt=attempt)
    return store


def write(store: MemoryStore, segment: tuple[int, int], *, attempt: int = 1) -> None:
    first, last = segment
    store.create(segment_key(attempt, first, last), b"".join(line(step) + b"\n" for step in range(first, last + 1)))


def lines_of(store: MemoryStore, attempt: int = 1) -> list[bytes]:
    return [data for _, data in read_lines(store)[attempt]]


def steps(first: int, last: int) -> list[bytes]:
    return [line(step) for step in range(first, last + 1)]


def test_what_a_checkpoint_holds_becomes_one_object():
    store = written((1, 2), (3, 3), (4, 6))
    compact(store, attempt=1, step=5)

    assert list(store.objects) == ["ledger/a0001/000000004-000000006.jsonl", "ledger-upto/a0001/000000003.jsonl"]
    assert lines_of(store) == steps(1, 6)


def test_the_bytes_of_a_compacted_object():
    store = written((1, 1))
    compact(store, attempt=1, step=1)

    (data,) = store.objects.values()
    assert data.splitlines() == [
        b'{"digest":"ca725775221aaf11b9a03b29ada2183a826f5df4f38d1e2a6f51223b11884132","follows":""}',
        b'{"step":1}',
    ]


def test_the_next_checkpoint_adds_one_that_follows_it():
    store = written((1, 2))
    compact(store, attempt=1, step=2)
    first = dict(store.objects)
    write(store, (3, 4))
    compact(store, attempt=1, step=4)

    assert list(store.objects) == ["ledger-upto/a0001/000000002.jsonl", "ledger-upto/a0001/000000004.jsonl"]
    assert store.objects | first == store.objects, "what was compacted never changes"
    assert lines_of(store) == steps(1, 4)


def test_an_attempt_compacts_only_its_own():
    store = written((1, 2))
    write(store, (3, 3), attempt=2)
    compact(store, attempt=2, step=3)

    assert list(store.objects) == ["ledger/a0001/000000001-000000002.jsonl", "ledger-upto/a0002/000000003.jsonl"]
    assert (lines_of(store, 1), lines_of(store, 2)) == (steps(1, 2), steps(3, 3))


def test_compacting_nothing_or_twice_changes_nothing():
    store = written((1, 2))
    compact(store, attempt=1, step=2)
    before = dict(store.objects)
    compact(store, attempt=1, step=2)
    compact(store, attempt=3, step=9)

    assert store.objects == before


@pytest.mark.parametrize("deletes_first", [0, 1, 2])
def test_a_crash_before_the_segments_are_deleted_leaves_both_and_each_line_is_read_once(deletes_first: int):
    store, left = written((1, 2), (3, 3), (4, 4)), iter(range(deletes_first))

    def crash(operation: str, key: str) -> None:
        if operation == "delete" and next(left, None) is None:
            raise StoreUnavailable("gone")

    store.fault = crash
    with pytest.raises(StoreUnavailable):
        compact(store, attempt=1, step=4)
    store.fault = lambda operation, key: None

    assert lines_of(store) == steps(1, 4)
    write(store, (5, 5))
    compact(store, attempt=1, step=5)
    assert list(store.objects) == ["ledger-upto/a0001/000000004.jsonl", "ledger-upto/a0001/000000005.jsonl"]
    assert lines_of(store) == steps(1, 5)


def test_a_crash_before_the_object_is_written_loses_nothing():
    store = written((1, 2))

    def crash(operation: str, key: str) -> None:
        if operation == "create":
            raise StoreUnavailable("gone")

    store.fault = crash
    with pytest.raises(StoreUnavailable):
        compact(store, attempt=1, step=2)
    store.fault = lambda operation, key: None

    assert lines_of(store) == steps(1, 2)


def test_a_segment_that_says_something_else_than_what_took_its_place_is_kept_and_shows():
    store = written((1, 2), (3, 3))
    compact(store, attempt=1, step=3)
    store.put(segment_key(1, 3, 3), line(3, ',"loss":9') + b"\n")
    compact(store, attempt=1, step=3)

    assert lines_of(store) == [*steps(1, 3), line(3, ',"loss":9')]


def test_a_line_that_a_segment_holds_twice_is_read_twice():
    """It is for the proof to say: hiding it would be no proof."""
    store = MemoryStore(objects={segment_key(1, 1, 2): line(1) + b"\n" + line(1) + b"\n" + line(2) + b"\n"})
    compact(store, attempt=1, step=2)

    assert lines_of(store) == [line(1), line(1), line(2)]


def test_a_ledger_is_read_whole_while_it_is_compacted():
    store = written((1, 2), (3, 3))

    def compact_once(operation: str, key: str) -> None:
        if operation == "get":
            store.fault = lambda operation, key: None
            compact(store, attempt=1, step=3)

    store.fault = compact_once

    assert lines_of(store) == steps(1, 3)


def compacted() -> MemoryStore:
    store = MemoryStore()
    for step in (1, 2, 3):
        write(store, (step, step))
        compact(store, attempt=1, step=step)
    return store


def test_a_changed_record_is_found_in_its_own_object():
    store = compacted()
    key = "ledger-upto/a0001/000000002.jsonl"
    store.objects[key] = store.objects[key].replace(b'"step":2', b'"step":7')

    with pytest.raises(DecodeError, match=rf"^{key}: is not what was written, its digest differs; restore it"):
        read_lines(store)


def test_a_missing_object_is_found_by_the_one_that_follows_it():
    store = compacted()
    del store.objects["ledger-upto/a0001/000000002.jsonl"]

    with pytest.raises(DecodeError, match=r"^ledger-upto/a0001/000000003.jsonl: what it follows is missing or another"):
        read_lines(store)


@pytest.mark.parametrize("key", ["ledger/a0001/notes.txt", "ledger-upto/a0001/notes.txt"])
def test_what_is_no_part_of_a_ledger_is_an_error_that_names_it(key: str):
    with pytest.raises(DecodeError, match=rf"^{key}: not a .*; remove it$"):
        read_lines(MemoryStore(objects={key: b""}))
