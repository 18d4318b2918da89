"""S3 behind a network, a load balancer and a server that have bad days: a real server, and a proxy that spoils what goes through it.

The right bytes, or one clear line; never wrong bytes, never a hang.
"""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from data_pipeline.store import s3
from data_pipeline.store.protocol import KeyExists, StoreError, StoreUnavailable
from data_pipeline.store.s3 import NUM_CONNECTIONS, S3Store
from launch.servers.ceph import why_not_ceph
from tests.data_pipeline.store.test_retry import FakeTime
from tests.fakes.faulty_s3 import (
    UNTIDY_PAGE,
    Answer,
    Exchange,
    Fault,
    FaultyS3,
    dripping,
    failing,
    flipped,
    flipped_on_the_way_up,
    passed_on,
    portal,
    range_ignored,
    range_moved,
    range_shortened,
    reset_after,
    reset_before,
    silent,
    stalled,
    throttled,
    truncated,
)

pytestmark = pytest.mark.timeout(60)  # nothing here may hang

DATA = bytes(range(256)) * 400
TROUBLE = {
    "throttled": throttled(),
    "429": failing(429),
    "429 with a time": failing(429, retry_after="0"),
    "500": failing(500),
    "502": failing(502),
    "reset before": reset_before,
    "reset after": reset_after,
    "portal": portal(),
    "untidy portal": portal(UNTIDY_PAGE),
}
"""What may happen to any request."""
BROKEN_RANGES = {"ignored": range_ignored, "moved": range_moved, "shortened": range_shortened, "truncated": truncated}
SLOW = {"silent": silent, "stalled": stalled, "dripping": dripping}


def named(faults: dict[str, Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=faults.keys())


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda delay_s: None))


@named(TROUBLE | {"truncated": truncated})
@pytest.mark.usefixtures("no_sleep")
def test_a_reader_gets_the_right_bytes_once_the_trouble_has_passed(faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault) -> None:
    spoiled_store.put("shard", DATA)
    for read, wanted in (
        (lambda: spoiled_store.get("shard"), DATA),
        (lambda: spoiled_store.get_range("shard", 300, 500), DATA[300:800]),
        (lambda: [info.size_bytes for info in spoiled_store.list("sh")], [len(DATA)]),
    ):
        faulty_s3.spoil(fault, method="GET", times=2)
        assert read() == wanted


@named(TROUBLE)
@pytest.mark.usefixtures("no_sleep")
def test_a_writer_has_written_once_when_the_trouble_has_passed(faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault) -> None:
    for method, write in (
        ("PUT", lambda: spoiled_store.put("state", b"new")),
        ("PUT", lambda: spoiled_store.create("journal/7", b"event")),
        ("DELETE", lambda: spoiled_store.delete("gone")),
    ):
        faulty_s3.spoil(fault, method=method, times=2)
        write()
    faulty_s3.heal()
    assert (spoiled_store.get("state"), spoiled_store.get("journal/7")) == (b"new", b"event")
    with pytest.raises(KeyExists):
        spoiled_store.create("journal/7", b"event")


@named(BROKEN_RANGES)
@pytest.mark.usefixtures("no_sleep")
def test_a_range_of_other_bytes_than_were_asked_for_is_never_taken(faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault) -> None:
    spoiled_store.put("shard", DATA)
    for start, length in ((0, 100), (300, 500), (len(DATA) - 100, 900)):
        faulty_s3.spoil(fault, method="GET", times=1)
        assert spoiled_store.get_range("shard", start, length) == DATA[start : start + length]


@named(TROUBLE | BROKEN_RANGES | SLOW)
def test_trouble_that_stays_is_one_line_with_the_object_and_the_remedy(faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault) -> None:
    spoiled_store.put("shard", DATA)
    faulty_s3.spoil(fault)
    with pytest.raises(StoreUnavailable) as caught:
        replace(spoiled_store, deadline_s=0.5).get_range("shard", 300, 500)
    line = str(caught.value)
    assert line.startswith(f"{spoiled_store.url('shard')}: ")
    assert faulty_s3.endpoint_url in line
    assert line.endswith("s: check storage.endpoint_url, the network and the server")
    assert "\n" not in line


@pytest.mark.parametrize("status", [405, 501, 505])
def test_what_the_server_is_not_made_for_is_told_at_the_first_try(faulty_s3: FaultyS3, spoiled_store: S3Store, status: int) -> None:
    asked: list[str] = []

    def refused(exchange: Exchange) -> None:
        asked.append(exchange.command)
        failing(status, code="NotImplemented")(exchange)

    faulty_s3.spoil(refused, method="PUT")
    with pytest.raises(StoreError, match=r"refused \(NotImplemented\); check that it is an S3 server which supports conditional writes$"):
        spoiled_store.create("shard", DATA)
    assert asked == ["PUT"]


@named({name: TROUBLE[name] for name in ("portal", "untidy portal", "500", "reset before")} | {"silent": silent})
def test_no_write_and_no_listing_counts_that_no_s3_server_answered(faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault) -> None:
    hasty = replace(spoiled_store, deadline_s=0.4)
    faulty_s3.spoil(fault)
    for use in (lambda: hasty.put("a", DATA), lambda: hasty.create("a", DATA), lambda: hasty.list(""), lambda: hasty.get("a")):
        with pytest.raises(StoreUnavailable, match=r"check storage.endpoint_url"):
            use()
    faulty_s3.heal()
    assert spoiled_store.list("") == []


@named({"silent": silent, "stalled": stalled})
def test_a_connection_that_stands_still_is_given_up_for_another_one(faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault) -> None:
    spoiled_store.put("shard", DATA)
    faulty_s3.spoil(fault, method="GET", times=1)
    assert spoiled_store.get_range("shard", 300, 500) == DATA[300:800]


@named({"silent": silent, "stalled": stalled})
def test_a_read_that_stands_still_is_asked_again_soon(
    faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PATIENCE_S", 0.1, raising=False)
    spoiled_store.put("shard", DATA)
    for read, wanted in ((lambda store: store.get_range("shard", 300, 500), DATA[300:800]), (lambda store: store.get("shard"), DATA)):
        faulty_s3.spoil(fault, method="GET", times=2)
        assert read(replace(spoiled_store, deadline_s=3.0)) == wanted, "before connections time out, each after 2 s"


def test_a_server_that_is_slow_to_answer_is_given_more_time_with_each_try(
    faulty_s3: FaultyS3, spoiled_store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PATIENCE_S", 0.01)
    spoiled_store.put("shard", DATA)

    def slow(exchange: Exchange) -> None:
        time.sleep(0.3)
        passed_on(exchange)

    faulty_s3.spoil(slow, method="GET")
    assert spoiled_store.get_range("shard", 300, 500) == DATA[300:800]


def test_a_slow_answer_may_outlast_the_deadline_while_its_bytes_keep_coming(
    faulty_s3: FaultyS3, spoiled_store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "SLOWEST_BYTES_PER_S", 1)
    spoiled_store.put("shard", DATA[:50])
    faulty_s3.spoil(dripping, method="GET")
    assert replace(spoiled_store, deadline_s=1.5).get("shard") == DATA[:50]


def test_an_upload_that_nobody_takes_is_given_up(faulty_s3: FaultyS3, spoiled_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "SLOWEST_BYTES_PER_S", 2**30)
    faulty_s3.spoil(silent, method="PUT")
    with pytest.raises(StoreUnavailable, match=r"/large: no answer from .*check storage.endpoint_url"):
        replace(spoiled_store, deadline_s=0.5).put("large", bytes(16 * 2**20))


def test_a_create_whose_answer_was_lost_counts_once(faulty_s3: FaultyS3, spoiled_store: S3Store) -> None:
    faulty_s3.spoil(reset_after, method="PUT", times=1)
    spoiled_store.create("journal/7", b"ours")
    with pytest.raises(KeyExists, match="another writer was first"):
        replace(spoiled_store).create("journal/7", b"theirs")
    assert spoiled_store.get("journal/7") == b"ours"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_SIZE_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "MULTIPART_FROM_BYTES", 10 * 2**20)


def error_in_an_answer_of_200(exchange: Exchange) -> None:
    """As S3 does it: it has begun to answer when it finds that it can't put the parts together."""
    exchange.answer(Answer(200, (), b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"))


@named({"lost": reset_after, "error in 200": error_in_an_answer_of_200, "throttled": throttled(), "portal": portal(UNTIDY_PAGE)})
@pytest.mark.usefixtures("small_parts", "no_sleep")
def test_a_large_object_comes_whole_through_trouble_with_each_kind_of_its_requests(
    faulty_s3: FaultyS3, spoiled_store: S3Store, fault: Fault
) -> None:
    data = DATA * (11 * 2**20 // len(DATA))
    for key in (r"\?uploads", "partNumber=2", r"\?uploadId"):
        faulty_s3.spoil(fault, key=key, times=1)
    spoiled_store.put("large", data)
    assert spoiled_store.get("large") == data


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """What the store takes for the time, which passes while it sleeps."""
    fake = FakeTime()
    monkeypatch.setattr(s3, "time", SimpleNamespace(monotonic=fake.clock, sleep=fake.sleep))
    return fake


def test_a_server_that_is_down_for_20_s_is_waited_for(
    faulty_s3: FaultyS3, spoiled_store: S3Store, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(delay_s: float) -> None:
        fake_time.sleep(delay_s)
        if sum(fake_time.slept_s) > 20:
            faulty_s3.come_up()
            monkeypatch.setattr(s3.time, "sleep", fake_time.sleep)

    monkeypatch.setattr(s3.time, "sleep", sleep)
    spoiled_store.put("shard", DATA)
    faulty_s3.go_down()
    assert replace(spoiled_store, deadline_s=60.0).get("shard") == DATA
    assert 20 < sum(fake_time.slept_s) < 30


def test_a_server_that_stays_down_is_told_by_the_deadline(faulty_s3: FaultyS3, spoiled_store: S3Store, fake_time: FakeTime) -> None:
    faulty_s3.go_down()
    try:
        with pytest.raises(StoreUnavailable, match=r"no answer from .* gave up after \d+ attempts in 10 s: check storage.endpoint_url"):
            replace(spoiled_store, deadline_s=10.0).get("shard")
    finally:
        faulty_s3.come_up()
    assert sum(fake_time.slept_s) <= 10


def test_a_throttled_reader_asks_less_and_less_often(faulty_s3: FaultyS3, spoiled_store: S3Store, fake_time: FakeTime) -> None:
    faulty_s3.spoil(throttled())
    with pytest.raises(StoreUnavailable, match="answered SlowDown"):
        replace(spoiled_store, deadline_s=60.0).get("shard")
    assert len(faulty_s3.requests) == len(fake_time.slept_s) + 1
    assert 15 < len(faulty_s3.requests) < 30
    assert fake_time.slept_s[0] <= 0.1
    assert all(later > earlier for earlier, later in itertools.pairwise(fake_time.slept_s[0:6:2]))


def test_readers_that_were_throttled_together_do_not_come_back_together(
    faulty_s3: FaultyS3, spoiled_store: S3Store, fake_time: FakeTime
) -> None:
    spoiled_store.put("shard", DATA)
    faulty_s3.spoil(throttled(), method="GET", times=8)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: spoiled_store.get("shard"), range(8))) == {DATA}
    assert len(set(fake_time.slept_s)) == 8


def test_a_server_that_says_when_to_come_back_is_obeyed(faulty_s3: FaultyS3, spoiled_store: S3Store, fake_time: FakeTime) -> None:
    spoiled_store.put("shard", DATA)
    for fault in (throttled(retry_after="3"), failing(429, retry_after="3"), throttled(retry_after="Fri, 31 Dec 1999 23:59:59 GMT")):
        faulty_s3.spoil(fault, method="GET", times=1)
    assert spoiled_store.get("shard") == DATA
    first, second, third = fake_time.slept_s
    assert 3 < first < 3.5
    assert 3 < second < 3.5
    assert third < 1, "a date says nothing to us, and fails nothing"


def test_as_many_reads_as_there_are_connections_go_at_once_whatever_happens_to_them(faulty_s3: FaultyS3, spoiled_store: S3Store) -> None:
    spoiled_store.put("shard", DATA)
    all_there = threading.Barrier(NUM_CONNECTIONS, timeout=20)
    faults = itertools.cycle([passed_on, throttled(), truncated, reset_before, range_ignored])

    def meet(exchange: Exchange) -> None:
        all_there.wait()
        next(faults)(exchange)

    def read(start: int) -> bool:
        return spoiled_store.get_range("shard", start, 1000) == DATA[start : start + 1000]

    faulty_s3.spoil(meet, method="GET", times=NUM_CONNECTIONS)
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        assert all(pool.map(read, range(NUM_CONNECTIONS)))


def test_a_bit_that_flips_on_the_way_down_is_for_the_readers_digests_to_find(faulty_s3: FaultyS3, spoiled_store: S3Store) -> None:
    spoiled_store.put("shard", b"\x00\x00")
    faulty_s3.spoil(flipped(bit=9), method="GET")
    assert spoiled_store.get("shard") == b"\x00\x02"


@pytest.mark.skipif(bool(why_not_ceph()), reason="moto checks no digest of a body")
def test_a_bit_that_flips_on_the_way_up_is_refused_and_sent_again(faulty_s3: FaultyS3, spoiled_store: S3Store) -> None:
    for act in (spoiled_store.put, spoiled_store.create):
        faulty_s3.spoil(flipped_on_the_way_up, method="PUT", times=1)
        act(act.__name__, DATA)
        assert spoiled_store.get(act.__name__) == DATA
