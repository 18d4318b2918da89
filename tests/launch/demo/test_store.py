"""The demo's store: a server that ends with it, or a directory."""

import os
from pathlib import Path

from data_pipeline.store.open import open_store
from launch.demo.store import demo_store
from orchestrator.node.processes import look_at


def test_a_moto_store_has_a_bucket_and_credentials_of_its_own_and_ends(tmp_path: Path) -> None:
    with demo_store("moto", tmp_path) as storage:
        assert "AWS_PROFILE" not in os.environ
        store = open_store(storage)
        store.create("key", b"data")
        assert store.get("key") == b"data"
        servers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(tmp_path).encode() in arguments_of(pid)]
        assert len(servers) == 1
    assert look_at(servers[0]) is None


def arguments_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_directory_is_a_store_too(tmp_path: Path) -> None:
    with demo_store(str(tmp_path / "store"), tmp_path) as storage:
        assert storage.root == str(tmp_path / "store")
