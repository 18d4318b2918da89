import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from data_pipeline.dataset.manifest import ShardRef
from data_pipeline.errors import CacheUnusable, ShardCorrupt, ShardMissing
from data_pipeline.read import fetch as fetching
from data_pipeline.read.cache import cached_shard
from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import StoreUnavailable
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore


@pytest.fixture
def calls() -> Counter:
    return Counter()


@pytest.fixture
def store(calls: Counter) -> MemoryStore:
    return MemoryStore(fault=lambda operation, key: calls.update([operation]))


def only_shard(store) -> ShardRef:
    return put_dataset(store, list(range(500))).shards[0]


def files_in(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir() if file.suffix != ".lock"}


def test_a_shard_is_fetched_in_ranges_once_and_then_kept(
    store: MemoryStore, calls: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCH_SIZE_BYTES", 300)
    ref = only_shard(store)
    path = cached_shard(ref, store=store, directory=tmp_path / "new" / "cache")
    assert path.read_bytes() == store.objects[ref.key]
    assert calls["get_range"] == 4  # 1000 bytes
    assert cached_shard(ref, store=store, directory=path.parent) == path
    assert calls["get_range"] == 4
    assert files_in(path.parent) == {ref.sha256}


KILLED_IN_BETWEEN = """
import os, pathlib, signal, sys
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.read import cache
from data_pipeline.store.local import LocalStore
cache.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
store = LocalStore(pathlib.Path(sys.argv[1]))
cache.cached_shard(load_manifest(store, sys.argv[2]).shards[0], store=store, directory=pathlib.Path(sys.argv[3]))
"""


def test_what_a_killed_process_had_fetched_is_removed_by_the_next_one_that_fetches(tmp_path: Path) -> None:
    """Of the same shard, or of another; not what a living process is at."""
    store, directory = LocalStore(tmp_path / "store"), tmp_path / "cache"
    put_dataset(store, list(range(500)))
    ours = put_dataset(store, list(range(400)), name="other").shards[0]
    for dataset in ("tiny", "other", "tiny"):
        command = [sys.executable, "-c", KILLED_IN_BETWEEN, str(tmp_path / "store"), dataset, str(directory)]
        assert subprocess.run(command, check=False).returncode == -9
    living = directory / f"{'f' * 64}.living.part"
    living.touch()
    with living.with_name(f"{'f' * 64}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cached_shard(ours, store=store, directory=directory)
    assert files_in(directory) == {ours.sha256, living.name}


def test_one_flipped_byte_is_refused_and_not_kept(store: MemoryStore, tmp_path: Path) -> None:
    ref = only_shard(store)
    data = bytearray(store.objects[ref.key])
    data[77] ^= 1
    store.objects[ref.key] = bytes(data)
    with pytest.raises(
        ShardCorrupt, match=r"^memory:datasets/tiny/shards/0.bin: its SHA-256 is .*; rebuild the dataset with `braid data build`"
    ):
        cached_shard(ref, store=store, directory=tmp_path)
    assert files_in(tmp_path) == set()


def test_a_truncated_shard_is_refused(store: MemoryStore, tmp_path: Path) -> None:
    ref = only_shard(store)
    store.objects[ref.key] = store.objects[ref.key][:-1]
    with pytest.raises(ShardCorrupt, match="has 999 bytes, its manifest says 1000"):
        cached_shard(ref, store=store, directory=tmp_path)


def test_a_missing_shard_says_what_to_do(store: MemoryStore, tmp_path: Path) -> None:
    ref = only_shard(store)
    store.delete(ref.key)
    with pytest.raises(
        ShardMissing, match=r"is in the manifest but not in the store; rebuild it with `braid data build` or fix storage.root"
    ):
        cached_shard(ref, store=store, directory=tmp_path)


def test_a_fetch_that_breaks_off_leaves_nothing_and_may_be_repeated(store: MemoryStore, tmp_path: Path) -> None:
    ref = only_shard(store)

    def unavailable(operation: str, key: str) -> None:
        raise StoreUnavailable("the store is away")

    store.fault = unavailable
    with pytest.raises(StoreUnavailable):
        cached_shard(ref, store=store, directory=tmp_path)
    assert files_in(tmp_path) == set()
    store.fault = lambda operation, key: None
    assert cached_shard(ref, store=store, directory=tmp_path).exists()


def test_a_cached_file_of_the_wrong_size_is_fetched_again(store: MemoryStore, tmp_path: Path) -> None:
    ref = only_shard(store)
    (tmp_path / ref.sha256).write_bytes(b"short")
    assert cached_shard(ref, store=store, directory=tmp_path).read_bytes() == store.objects[ref.key]


def test_a_shard_that_is_damaged_after_it_was_checked_is_fetched_again_though_its_time_was_set_back(
    store: MemoryStore, tmp_path: Path
) -> None:
    ref = only_shard(store)
    path = cached_shard(ref, store=store, directory=tmp_path)
    good, then = path.read_bytes(), path.stat()
    path.write_bytes(b"\1" + good[1:])
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert cached_shard(ref, store=store, directory=tmp_path).read_bytes() == good


def test_of_several_threads_one_fetches_and_all_read_the_same(store: MemoryStore, calls: Counter, tmp_path: Path) -> None:
    ref = only_shard(store)
    read: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: read.append(cached_shard(ref, store=store, directory=tmp_path).read_bytes())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [store.objects[ref.key]] * 8
    assert calls["get_range"] == 1


def fetch(ref: ShardRef, root: Path, directory: Path) -> str:
    return cached_shard(ref, store=LocalStore(root), directory=directory).name


def test_processes_of_a_node_share_a_cache(tmp_path: Path) -> None:
    ref = only_shard(LocalStore(tmp_path / "store"))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(fetch, [(ref, tmp_path / "store", tmp_path / "cache")] * 4) == [ref.sha256] * 4
    assert files_in(tmp_path / "cache") == {ref.sha256}


def test_a_cache_that_cant_be_written_says_so(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnusable, match=r": can't keep shards here \(File exists\); free space, or choose another cache directory$"):
        cached_shard(only_shard(store), store=store, directory=tmp_path / "file")


def test_a_disk_that_is_full_is_told_as_such(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "as the kernel says")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CacheUnusable, match=r": can't keep shards here \(no space left\); free space"):
        cached_shard(only_shard(store), store=store, directory=tmp_path)
    assert files_in(tmp_path) == set()
