"""Large ranges take a way of their own as long as all goes well; what does not is the client's, and nobody gets wrong bytes."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from data_pipeline.store import s3, s3_ranges
from data_pipeline.store.protocol import KeyMissing, StoreUnavailable
from data_pipeline.store.s3 import S3Store
from data_pipeline.store.s3_ranges import MOST_URLS, RESTS_FOR_S, SMALLEST_BYTES, USED_FOR_S
from tests.data_pipeline.store.test_faults import BROKEN_RANGES, SLOW, TROUBLE, named
from tests.fakes.faulty_s3 import Fault, FaultyS3, throttled

pytestmark = pytest.mark.timeout(60)
DATA = bytes(range(256)) * 4096


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of large ranges, which a test may set forward."""
    shifted = SimpleNamespace(by_s=0.0)
    monkeypatch.setattr(s3_ranges, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + shifted.by_s))
    monkeypatch.setattr(s3, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda delay_s: None))
    return shifted


@pytest.fixture
def store(spoiled_store: S3Store, clock: SimpleNamespace) -> S3Store:
    """With one object, and nothing remembered of other tests' trouble."""
    ranges = spoiled_store.ranges
    spoiled_store.put("shard", DATA)
    return replace(spoiled_store, ranges=s3_ranges.RangeReader(sign=ranges.sign, session=ranges.session), deadline_s=4.0)


def is_signed(faulty_s3: FaultyS3) -> list[bool]:
    return ["X-Amz-Signature" in request for request in faulty_s3.requests]


def test_large_ranges_are_read_by_signed_urls_and_small_ones_by_the_client(faulty_s3: FaultyS3, store: S3Store) -> None:
    for start, length in ((0, len(DATA)), (300, SMALLEST_BYTES), (len(DATA) - 1000, SMALLEST_BYTES)):
        assert store.get_range("shard", start, length) == DATA[start : start + length]
    assert is_signed(faulty_s3)[-3:] == [True] * 3
    assert store.get_range("shard", 300, SMALLEST_BYTES - 1) == DATA[300:][: SMALLEST_BYTES - 1]
    assert not is_signed(faulty_s3)[-1]


def test_what_is_not_there_is_told_as_ever(store: S3Store) -> None:
    assert store.get_range("shard", len(DATA), SMALLEST_BYTES) == b""
    with pytest.raises(KeyMissing):
        store.get_range("none", 0, SMALLEST_BYTES)


@named(TROUBLE | BROKEN_RANGES | SLOW)
def test_after_any_trouble_the_right_bytes_come_and_the_client_asks_alone(faulty_s3: FaultyS3, store: S3Store, fault: Fault) -> None:
    faulty_s3.spoil(fault, method="GET", times=1)
    assert store.get_range("shard", 300, SMALLEST_BYTES) == DATA[300:][:SMALLEST_BYTES]
    assert store.get_range("shard", 400, SMALLEST_BYTES) == DATA[400:][:SMALLEST_BYTES]
    assert is_signed(faulty_s3)[-2:] == [False] * 2


def test_trouble_that_stays_is_told_by_the_deadline_and_asks_a_busy_server_once_more_at_most(faulty_s3: FaultyS3, store: S3Store) -> None:
    faulty_s3.spoil(throttled())
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="answered SlowDown"):
            replace(store, deadline_s=0.3).get_range("shard", 0, SMALLEST_BYTES)
    assert sum(is_signed(faulty_s3)) == 1


def test_after_a_rest_it_is_tried_again_and_a_url_is_signed_anew_long_before_it_expires(
    faulty_s3: FaultyS3, store: S3Store, clock: SimpleNamespace
) -> None:
    def read() -> str:
        assert store.get_range("shard", 0, SMALLEST_BYTES) == DATA[:SMALLEST_BYTES]
        return faulty_s3.requests[-1]

    faulty_s3.spoil(throttled(), method="GET", times=1)
    assert "X-Amz-Signature" not in read()
    clock.by_s += RESTS_FOR_S
    first = read()
    assert "X-Amz-Signature" in first
    assert read() == first
    time.sleep(1.1)  # a signature's second
    clock.by_s += USED_FOR_S
    assert "X-Amz-Signature" in read() != first


def test_where_no_url_can_be_signed_the_client_reads(faulty_s3: FaultyS3, store: S3Store) -> None:
    """Credentials may be on their way, from a service that has trouble of its own."""

    def refuse(key: str) -> str:
        raise ClientError({"Error": {"Code": "Throttling"}}, "AssumeRole")

    store.ranges.sign = refuse
    assert store.get_range("shard", 0, SMALLEST_BYTES) == DATA[:SMALLEST_BYTES]
    assert not any(is_signed(faulty_s3))


def test_many_readers_of_many_objects_each_get_theirs(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_URLS > 1000
    monkeypatch.setattr(s3_ranges, "MOST_URLS", 3)
    for number in range(5):
        store.put(f"shard{number}", bytes([number]) * SMALLEST_BYTES)
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda number: store.get_range(f"shard{number % 5}", 0, SMALLEST_BYTES), range(60))
        assert all(data == bytes([number % 5]) * SMALLEST_BYTES for number, data in enumerate(found))
