import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.s3 import S3Store, create_bucket, open_s3
from launch.servers.ceph import why_not_ceph
from tests.data_pipeline.store.s3_world import ACCESS_KEY, SECRET_KEY, S3World, running_s3_world, set_credentials
from tests.fakes.faulty_s3 import FaultyS3, running_faulty_s3
from tests.s3.conftest import ceph

__all__ = ["ceph"]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
        with running_s3_world() as world:
            yield world


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3World) -> S3Store:
    """One store for the session, because making an S3 client takes a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        set_credentials(patch, ACCESS_KEY, SECRET_KEY)
        create_bucket(s3_server.storage("test-bucket"))
        return open_s3(s3_server.storage("test-bucket"))


@pytest.fixture
def s3_world(s3_server: S3World, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3World]:
    """The server with credentials in this test's environment, and without faults."""
    set_credentials(monkeypatch, ACCESS_KEY, SECRET_KEY)
    s3_server.app.requests.clear()
    yield s3_server
    s3_server.app.fault = lambda request: ""


@pytest.fixture
def s3_store(s3_world: S3World, s3_bucket: S3Store) -> S3Store:
    """An empty store: a prefix of the test's own."""
    return replace(s3_bucket, prefix=f"{uuid.uuid4().hex}/")


@pytest.fixture(scope="session")
def spoiled_bucket(request: pytest.FixtureRequest) -> Iterator[tuple[FaultyS3, S3Store]]:
    """A bucket behind a proxy that spoils answers: on Ceph's gateway where the machine has it, else on moto. Reads time out after 2 s."""
    server = request.getfixturevalue("s3_server" if why_not_ceph() else "ceph")
    with running_faulty_s3(server.endpoint_url) as s3, pytest.MonkeyPatch.context() as patch:
        set_credentials(patch, getattr(server, "access_key", ACCESS_KEY), getattr(server, "secret_key", SECRET_KEY))
        storage = StorageConfig(root="s3://braid-faults", endpoint_url=s3.endpoint_url, deadline_s=4.0)
        create_bucket(storage)
        yield s3, open_s3(storage)


@pytest.fixture
def faulty_s3(spoiled_bucket: tuple[FaultyS3, S3Store]) -> Iterator[FaultyS3]:
    """The proxy, without faults yet."""
    s3, _ = spoiled_bucket
    yield s3
    s3.heal()


@pytest.fixture
def spoiled_store(faulty_s3: FaultyS3, spoiled_bucket: tuple[FaultyS3, S3Store]) -> S3Store:
    """An empty store behind the proxy. It has more patience than any fault that passes needs."""
    _, bucket = spoiled_bucket
    return replace(bucket, prefix=f"{uuid.uuid4().hex}/", deadline_s=30.0)
