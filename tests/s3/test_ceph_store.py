"""The store contract against a real S3 server, and what only a real one can show."""

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import AccessDenied, BucketMissing, ObjectStore
from data_pipeline.store.s3 import MULTIPART_FROM_BYTES, S3Store, create_bucket, open_s3
from tests.data_pipeline.store.s3_world import leave_an_upload, set_credentials
from tests.data_pipeline.store.store_contract import StoreContract
from tests.s3.conftest import CephAccess

pytestmark = pytest.mark.s3


@pytest.fixture
def storage(ceph: CephAccess, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    set_credentials(monkeypatch, ceph.access_key, ceph.secret_key)
    return StorageConfig(root="s3://braid-tests/some/prefix", endpoint_url=ceph.endpoint_url)


@pytest.fixture(scope="session")
def bucket(ceph: CephAccess) -> S3Store:
    with pytest.MonkeyPatch.context() as patch:
        set_credentials(patch, ceph.access_key, ceph.secret_key)
        storage = StorageConfig(root="s3://braid-tests", endpoint_url=ceph.endpoint_url)
        create_bucket(storage)
        return open_s3(storage)


@pytest.fixture
def ceph_store(storage: StorageConfig, bucket: S3Store) -> Iterator[S3Store]:
    return replace(bucket, prefix=f"{uuid.uuid4().hex}/")


class TestCephStore(StoreContract):
    num_listed = 1010  # S3 pages hold a thousand

    @pytest.fixture
    def store(self, ceph_store: S3Store) -> ObjectStore:
        return ceph_store

    def leave_incomplete(self, store: ObjectStore, key: str) -> None:
        leave_an_upload(store, key)

    def put_all(self, store: ObjectStore, keys: list[str]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, key.encode()), keys))


def test_the_server_refuses_wrong_credentials(
    storage: StorageConfig, bucket: S3Store, ceph: CephAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(AccessDenied, match=r"SignatureDoesNotMatch.*check AWS_ACCESS_KEY_ID") as caught:
        open_s3(storage).get("key")
    assert "a-wrong-secret" not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(AccessDenied, match="InvalidAccessKeyId"):
        open_s3(storage).create("key", b"")


def test_the_server_names_a_missing_bucket(storage: StorageConfig) -> None:
    store = open_s3(StorageConfig(root="s3://no-such-bucket/x", endpoint_url=storage.endpoint_url))
    for use in (lambda: store.get("key"), lambda: store.create("key", b""), lambda: store.list("")):
        with pytest.raises(BucketMissing, match="s3://no-such-bucket/x/"):
            use()


def test_a_large_object_goes_up_in_parts_and_comes_back_whole(ceph_store: S3Store) -> None:
    data = os.urandom(2**20) * (MULTIPART_FROM_BYTES // 2**20) + b"odd end"
    ceph_store.put("large", data)
    assert ceph_store.get("large") == data
    assert ceph_store.get_range("large", MULTIPART_FROM_BYTES - 1, 9) == data[-8:]


def test_names_that_need_escaping_survive(ceph_store: S3Store) -> None:
    keys = ["a b+c%20?#&=.bin", "x'\"<y>", "ünïcödé/ß"]
    for key in keys:
        ceph_store.put(key, key.encode())
    assert [info.key for info in ceph_store.list("")] == sorted(keys)
    assert [ceph_store.get(key) for key in keys] == [key.encode() for key in keys]
