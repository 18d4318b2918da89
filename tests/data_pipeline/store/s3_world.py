"""A moto server in this process, whose answers a test may spoil."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectStore
from data_pipeline.store.s3 import S3Store
from launch.servers.moto import build_moto_server

ACCESS_KEY = "test-access-key"
SECRET_KEY = "never-to-be-seen-secret"
Fault = Callable[[dict[str, Any]], str]
"""Given a request, the S3 error code to answer with, or "" for none. "lost: CODE": do as asked first. "cut off": half an answer."""
STATUS = {
    "SlowDown": "503 Slow Down",
    "InternalError": "500 Internal Server Error",
    "InvalidAccessKeyId": "403 Forbidden",
    "ExpiredToken": "400 Bad Request",
    "NoSuchUpload": "404 Not Found",
}


@dataclass
class FaultyApp:
    """The real application behind a fault hook, which sees every request."""

    app: Callable[..., Iterable[bytes]]
    fault: Fault = lambda request: ""
    requests: list[str] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append(environ["REQUEST_METHOD"])
        code = self.fault(environ)
        if not code:
            return self.app(environ, start_response)
        if code == "cut off":
            start_response("200 OK", [("Content-Length", "1000")])
            return [b"only so much"]
        if code.startswith("lost: "):
            code = code.removeprefix("lost: ")
            b"".join(self.app(environ, lambda *answer: None))
        start_response(STATUS[code], [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>{SECRET_KEY}</Message></Error>".encode()]


@dataclass(frozen=True)
class S3World:
    endpoint_url: str
    app: FaultyApp

    def storage(self, bucket: str, prefix: str = "some/prefix", deadline_s: float = 30.0) -> StorageConfig:
        return StorageConfig(root=f"s3://{bucket}/{prefix}", endpoint_url=self.endpoint_url, deadline_s=deadline_s)


@contextmanager
def running_s3_world() -> Iterator[S3World]:
    server, endpoint_url = build_moto_server(0)
    server.app = app = FaultyApp(server.app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield S3World(endpoint_url, app)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def set_credentials(patch: pytest.MonkeyPatch, access_key: str, secret_key: str) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_ACCESS_KEY_ID", access_key)
    patch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)


def leave_an_upload(store: ObjectStore, key: str) -> None:
    """A multipart upload that nobody completes."""
    assert isinstance(store, S3Store)
    upload = store._call("create_multipart_upload", key, {})["UploadId"]
    store._call("upload_part", key, {"UploadId": upload, "PartNumber": 1, "Body": b"half"})
