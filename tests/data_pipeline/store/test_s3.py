"""S3 when something is wrong with it. The server is real HTTP (moto); only its answers are spoiled."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store import s3
from data_pipeline.store.protocol import AccessDenied, BucketMissing, KeyExists, KeyMissing, StoreUnavailable
from data_pipeline.store.s3 import S3Store, aborts_uploads_itself, create_bucket, open_s3
from tests.data_pipeline.store.s3_world import ACCESS_KEY, SECRET_KEY, Fault, S3World, set_credentials


def first(method: str, *codes: str) -> Fault:
    """Spoils the first requests of a method, one after the other."""
    left = list(codes)
    return lambda request: left.pop(0) if left and request["REQUEST_METHOD"] == method else ""


def test_a_busy_server_is_asked_again_by_us_alone(s3_world: S3World, s3_store: S3Store) -> None:
    s3_world.app.fault = first("PUT", "SlowDown", "InternalError")
    s3_world.app.requests.clear()
    s3_store.put("key", b"1")
    assert s3_world.app.requests == ["PUT", "PUT", "PUT"]
    assert s3_store.get("key") == b"1"


def test_an_answer_that_breaks_off_is_asked_for_again(s3_world: S3World, s3_store: S3Store) -> None:
    s3_store.put("key", b"x" * 1000)
    s3_world.app.fault = first("GET", "cut off", "cut off")
    assert s3_store.get("key") == b"x" * 1000


def test_a_create_whose_answer_was_lost_is_ours_when_it_is_repeated(s3_world: S3World, s3_store: S3Store) -> None:
    s3_world.app.fault = first("PUT", "lost: InternalError")
    s3_store.create("journal/7", b"event")
    assert s3_store.get("journal/7") == b"event"


def test_a_create_that_failed_and_then_found_a_strangers_object_is_refused(s3_world: S3World, s3_store: S3Store) -> None:
    stranger = open_s3(s3_world.storage(s3_store.bucket, s3_store.prefix))

    def stranger_comes_first(request: dict) -> str:
        s3_world.app.fault = lambda request: ""
        stranger.create("journal/7", b"event")  # even the very same bytes
        return "SlowDown"

    s3_world.app.fault = stranger_comes_first
    with pytest.raises(KeyExists, match="another writer was first"):
        s3_store.create("journal/7", b"event")


def test_a_server_that_stays_broken_is_given_up_at_the_deadline(s3_world: S3World) -> None:
    storage = s3_world.storage("any-bucket", deadline_s=0.5)
    store = open_s3(storage)
    s3_world.app.fault = lambda request: "SlowDown"
    s3_world.app.requests.clear()
    with pytest.raises(
        StoreUnavailable, match=r"answered SlowDown; gave up after \d attempts in 0.5 s: check storage.endpoint_url"
    ) as caught:
        store.get("key")
    assert f"after {len(s3_world.app.requests)} attempts" in str(caught.value)  # nobody below us retries too


def test_an_endpoint_where_nobody_listens_is_one_clear_line(s3_world: S3World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    store = open_s3(StorageConfig(root="s3://bucket", endpoint_url=f"http://127.0.0.1:{port}", deadline_s=0.3))
    with pytest.raises(StoreUnavailable, match=rf"^s3://bucket/key: no answer from http://127.0.0.1:{port} .*storage.endpoint_url"):
        store.get("key")


def test_an_endpoint_that_accepts_and_never_answers_is_given_up(s3_world: S3World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = open_s3(StorageConfig(root="s3://bucket", endpoint_url=endpoint_url, deadline_s=0.5))
        with pytest.raises(StoreUnavailable, match="no answer from"):
            store.get("key")


def test_a_missing_bucket_is_named(s3_world: S3World) -> None:
    store = open_s3(s3_world.storage("no-such-bucket"))
    for use in (lambda: store.get("key"), lambda: store.put("key", b""), lambda: store.create("key", b""), lambda: store.list("")):
        with pytest.raises(
            BucketMissing, match=r"^s3://no-such-bucket/some/prefix/.*: no such bucket at http://127.*; create it, or fix storage.root$"
        ):
            use()


def test_wrong_credentials_fail_at_once_and_show_nothing_of_themselves(s3_world: S3World) -> None:
    store = open_s3(s3_world.storage("bucket"))
    s3_world.app.fault = lambda request: "InvalidAccessKeyId"
    s3_world.app.requests.clear()
    with pytest.raises(AccessDenied, match=r"InvalidAccessKeyId.*check AWS_ACCESS_KEY_ID") as caught:
        store.get("key")
    assert s3_world.app.requests == ["GET"]
    for shown in (str(caught.value), repr(store), str(store), store.url("key"), store.endpoint):
        assert SECRET_KEY not in shown
        assert ACCESS_KEY not in shown


@pytest.fixture
def nobody(s3_world: S3World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3World:
    """The server, for a process that nothing gives credentials to."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return s3_world


def test_no_credentials_at_all_are_one_clear_line(nobody: S3World) -> None:
    with pytest.raises(AccessDenied, match=r"no usable credentials .*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_s3(nobody.storage("bucket", deadline_s=0.2))


def test_credentials_that_come_late_are_waited_for(nobody: S3World, s3_bucket: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an instance's metadata service does not answer for a moment."""
    monkeypatch.setattr("time.sleep", lambda delay_s: set_credentials(monkeypatch, ACCESS_KEY, SECRET_KEY))
    open_s3(nobody.storage(s3_bucket.bucket)).put("late", b"1")
    assert s3_bucket.get("late") == b"1"


def test_a_token_that_has_expired_is_waited_for_until_the_deadline(s3_world: S3World, s3_store: S3Store) -> None:
    s3_world.app.fault = first("PUT", "ExpiredToken", "ExpiredToken")
    s3_store.put("key", b"1")
    assert s3_store.get("key") == b"1"
    s3_world.app.fault = lambda request: "ExpiredToken"
    with pytest.raises(
        AccessDenied, match=r"/key: access denied \(ExpiredToken\); renew the token.* \(gave up after \d attempts in 0.3 s\)$"
    ):
        replace(s3_store, deadline_s=0.3).get("key")


def test_half_a_pair_of_credentials_is_a_mistake_that_no_waiting_mends(nobody: S3World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setattr("time.sleep", lambda delay_s: pytest.fail("waited"))
    with pytest.raises(AccessDenied, match=r"PartialCredentialsError.*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_s3(nobody.storage("bucket"))


def test_a_missing_profile_is_one_clear_line(s3_world: S3World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(AccessDenied, match=r"ProfileNotFound.*AWS_PROFILE"):
        open_s3(s3_world.storage("bucket"))


def test_a_large_object_goes_up_in_parts_and_comes_back_whole(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_SIZE_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "MULTIPART_FROM_BYTES", 10 * 2**20)
    data = os.urandom(2**20) * 12 + b"odd end"
    s3_store.put("large", data)
    assert s3_store.get("large") == data
    assert s3_store.get_range("large", 12 * 2**20, 100) == b"odd end"


def test_a_large_object_whose_last_answer_was_lost_counts(s3_world: S3World, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_SIZE_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "MULTIPART_FROM_BYTES", 10 * 2**20)
    s3_world.app.fault = first("POST", "", "lost: InternalError", "NoSuchUpload")
    s3_store.put("large", bytes(11 * 2**20))
    assert s3_store.list("large")[0].size_bytes == 11 * 2**20
    s3_world.app.fault = first("POST", "", "NoSuchUpload")
    with pytest.raises(KeyMissing):
        s3_store.put("another", bytes(11 * 2**20))


def test_a_failed_large_object_leaves_no_parts_behind(s3_world: S3World, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_SIZE_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "MULTIPART_FROM_BYTES", 10 * 2**20)
    s3_world.app.fault = lambda request: "InvalidAccessKeyId" if "partNumber=2" in request["QUERY_STRING"] else ""
    with pytest.raises(AccessDenied):
        s3_store.put("large", bytes(11 * 2**20))
    s3_world.app.fault = lambda request: ""
    with pytest.raises(KeyMissing):
        s3_store.get("large")
    uploads = s3_store.filesystem.call_s3("list_multipart_uploads", Bucket=s3_store.bucket)  # s3fs's own way, to look from outside
    assert uploads.get("Uploads", []) == []


def test_making_our_own_bucket_twice_is_fine(s3_world: S3World, s3_store: S3Store) -> None:
    create_bucket(s3_world.storage(s3_store.bucket))


def test_names_that_need_escaping_survive(s3_store: S3Store) -> None:
    keys = ["a b+c%20?#&=.bin", "ünïcödé/ß", "x'\"<y>"]
    for key in keys:
        s3_store.put(key, key.encode())
    assert [info.key for info in s3_store.list("")] == sorted(keys)
    assert [s3_store.get(key) for key in keys] == [key.encode() for key in keys]


def test_the_environment_may_name_the_endpoint(s3_world: S3World, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_world.endpoint_url)
    s3_store.put("key", b"1")
    assert open_s3(StorageConfig(root=f"s3://{s3_store.bucket}/{s3_store.prefix}")).get("key") == b"1"


def test_a_bucket_tells_whether_it_aborts_incomplete_uploads_itself(s3_world: S3World, s3_store: S3Store) -> None:
    storage = s3_world.storage(s3_store.bucket, prefix="some/prefix")

    def put_rule(prefix: str, status: str = "Enabled") -> None:
        rule = {"ID": "1", "Status": status, "Filter": {"Prefix": prefix}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2}}
        put = {"Bucket": s3_store.bucket, "LifecycleConfiguration": {"Rules": [rule]}}
        s3_store._request("put_bucket_lifecycle_configuration", "bucket", put)

    assert not aborts_uploads_itself(storage)
    for prefix, status, is_ours in (
        ("some/prefix/", "Enabled", True),
        ("", "Enabled", True),
        ("", "Disabled", False),
        ("elsewhere/", "Enabled", False),
    ):
        put_rule(prefix, status)
        assert aborts_uploads_itself(storage) is is_ours
    s3_store._request("delete_bucket_lifecycle", "bucket", {"Bucket": s3_store.bucket})


@pytest.mark.parametrize(("endpoint_url", "is_signed"), [("http://127.0.0.1:9", True), ("https://s3.example.com", False), ("", False)])
def test_what_is_written_is_digested_for_its_signature_only_where_tls_does_not_guard_it(
    monkeypatch: pytest.MonkeyPatch, endpoint_url: str, is_signed: bool
) -> None:
    set_credentials(monkeypatch, ACCESS_KEY, SECRET_KEY)
    store = open_s3(StorageConfig(root="s3://bucket", endpoint_url=endpoint_url))

    assert store.client.meta.config.s3["payload_signing_enabled"] is is_signed
