import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from data_pipeline.store.s3 import S3Store, create_bucket, open_s3
from tests.data_pipeline.store.s3_world import ACCESS_KEY, SECRET_KEY, S3World, running_s3_world, set_credentials


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
