import fcntl
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from launch.servers.ceph import start_ceph, why_not_ceph

WAIT_FOR_OTHERS_S = 120.0


@dataclass(frozen=True)
class CephAccess:
    """How to reach the gateway that this test run shares."""

    endpoint_url: str
    access_key: str
    secret_key: str


@contextmanager
def shared_state(path: Path) -> Iterator[dict]:
    """A dict in a file, one process at a time."""
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(path.read_text()) if path.exists() else {"num_users": 0}
        yield state
        path.write_text(json.dumps(state))


@pytest.fixture(scope="session")
def ceph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephAccess]:
    """One gateway for the whole run, however many xdist workers it has: the first to come starts it, and stops it when all have left."""
    reason = why_not_ceph()
    if reason:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n*** NOT TESTED against a real S3 server: {reason} ***", file=sys.stderr, flush=True)
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if hasattr(request.config, "workerinput") else base) / "ceph.json"
    server = None
    with shared_state(path) as state:
        if "access" not in state:
            server = start_ceph(tmp_path_factory.mktemp("ceph") / "cluster")
            access = CephAccess(endpoint_url=server.endpoint_url, access_key=server.access_key, secret_key=server.secret_key)
            state["access"] = asdict(access)
        state["num_users"] += 1
        access = CephAccess(**state["access"])
    try:
        yield access
    finally:
        leave(path)
        if server is not None:
            wait_for_others(path)
            server.stop()


def leave(path: Path) -> None:
    with shared_state(path) as state:
        state["num_users"] -= 1


def wait_for_others(path: Path) -> None:
    gives_up_at_s = time.monotonic() + WAIT_FOR_OTHERS_S
    while time.monotonic() < gives_up_at_s:
        with shared_state(path) as state:
            if state["num_users"] == 0:
                del state["access"]  # whoever comes now starts another
                return
        time.sleep(0.1)
