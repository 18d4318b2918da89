"""The object store of a demo: a server on loopback, or a directory."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.store.s3 import create_bucket
from launch.config.storage import storage_of
from launch.errors import NotReachable
from launch.servers.ceph import CephError, start_ceph

BUCKET_ROOT = "s3://braid-demo/store"
START_TIMEOUT_S = 60.0
_OTHER_CREDENTIALS = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


@contextmanager
def demo_store(kind: str, home: Path) -> Iterator[StorageConfig]:
    """A store of the wanted kind: moto, ceph or a directory. Its credentials are in the environment then, for all that is started later.

    Raises NotReachable.
    """
    if kind == "moto":
        with _moto(home) as endpoint_url:
            yield _with_bucket(endpoint_url, "demo", "demo-secret")
    elif kind == "ceph":
        try:
            server = start_ceph(home / "ceph")
        except CephError as error:
            raise NotReachable(f"--store ceph: {error}") from error
        try:
            yield _with_bucket(server.endpoint_url, server.access_key, server.secret_key)
        finally:
            server.stop()
    else:
        yield storage_of(kind)


@contextmanager
def _moto(home: Path) -> Iterator[str]:
    """The endpoint of a server which ends with the block."""
    endpoint = home / "moto-endpoint"
    command = [sys.executable, "-P", "-m", "launch.servers.moto", "--port", "0", "--endpoint-file", str(endpoint)]
    with (home / "moto.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        give_up_at_s = time.monotonic() + START_TIMEOUT_S
        while not endpoint.exists():
            if server.poll() is not None or time.monotonic() > give_up_at_s:
                raise NotReachable(f"--store moto: the S3 server did not start; its last words are in {log.name}, look with --keep")
            time.sleep(0.05)
        yield endpoint.read_text().strip()
    finally:
        server.kill()
        server.wait()


def _with_bucket(endpoint_url: str, access_key: str, secret_key: str) -> StorageConfig:
    for name in _OTHER_CREDENTIALS:
        os.environ.pop(name, None)
    os.environ |= {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_DEFAULT_REGION": "us-east-1"}
    storage = storage_of(BUCKET_ROOT, endpoint_url)
    create_bucket(storage)
    return storage
