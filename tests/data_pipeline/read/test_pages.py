"""What a reader of pages gives is what the dataset has, or one line says what is not."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.dataset.manifest import DatasetManifest, load_manifest
from data_pipeline.dataset.pages import DIGEST_BYTES, PAGE_BYTES, num_pages, page_digests, wrong_pages
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.errors import CacheUnusable, ShardCorrupt, ShardMissing
from data_pipeline.read.block_cache import BlockCache, open_cache
from data_pipeline.read.page_index import open_index
from data_pipeline.read.page_reader import Block, PageReader
from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import ObjectStore
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

TOKENS = [number * number % 997 for number in range(3 * PAGE_BYTES // 2 + 100)]  # three pages and a bit
WHOLE = Block(0, range(4))


def reader_of(store: ObjectStore, manifest: DatasetManifest, directory: Path, cache: BlockCache | None) -> PageReader:
    shards = ShardStore(store)
    return PageReader(manifest=manifest, shards=shards, index=open_index(manifest, shards, directory), cache=cache)


def cached_reader(store: ObjectStore, directory: Path, *, is_paged: bool = True) -> PageReader:
    manifest = put_dataset(store, TOKENS, is_paged=is_paged)
    return reader_of(store, manifest, directory, open_cache(directory, limit_bytes=10**9))


def shard_of(store: MemoryStore) -> bytes:
    return store.objects["datasets/tiny/shards/0.bin"]


def flip(store: MemoryStore, key: str, bit: int) -> None:
    data = bytearray(store.objects[key])
    data[bit // 8] ^= 1 << bit % 8
    store.objects[key] = bytes(data)


@given(bit=st.integers(0, 8 * 2 * len(TOKENS) - 1), is_paged=st.booleans(), is_cached=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_every_single_flipped_bit_of_a_shard_is_caught(bit: int, is_paged: bool, is_cached: bool, tmp_path: Path):
    store = MemoryStore()
    directory = tmp_path / f"{bit}-{is_paged}-{is_cached}"
    manifest = put_dataset(store, TOKENS, is_paged=is_paged)
    flip(store, manifest.shards[0].key, bit)
    reader = reader_of(store, manifest, directory, open_cache(directory, limit_bytes=10**9) if is_cached else None)
    page = bit // 8 // PAGE_BYTES
    with pytest.raises(ShardCorrupt, match=r"^memory:datasets/tiny/shards/0\.bin: .*; rebuild the dataset with `braid data build`"):
        reader.read(WHOLE, range(page, page + 1))


def test_a_damaged_page_is_told_by_its_place_and_both_digests(tmp_path: Path):
    store = MemoryStore()
    reader = cached_reader(store, tmp_path)
    good = shard_of(store)
    flip(store, "datasets/tiny/shards/0.bin", 8 * 2 * PAGE_BYTES)
    found, expected = (page_digests(data[2 * PAGE_BYTES : 3 * PAGE_BYTES]).hex() for data in (shard_of(store), good))
    told = rf"bytes 65,536 to 98,304 have the digest {found}, the dataset says {expected} in memory:datasets/tiny/.*; rebuild"
    with pytest.raises(ShardCorrupt, match=told):
        reader.read(WHOLE, range(1))
    assert [path.name for path in tmp_path.iterdir()] == [], "and nothing of it is kept"


def test_where_the_digests_may_be_to_blame_they_are_named_with_what_tells(tmp_path: Path):
    store = MemoryStore()
    reader = cached_reader(store, tmp_path)
    digests = reader.manifest.pages.key
    flip(store, digests, 8 * DIGEST_BYTES)
    with pytest.raises(ShardCorrupt) as caught:
        reader.read(WHOLE, range(1))
    assert f" in memory:{digests} (`braid data inspect tiny --verify` tells which of the two is damaged); re" in str(caught.value)


@pytest.mark.parametrize("is_paged", [True, False])
def test_a_block_is_fetched_once_and_its_pages_come_from_the_cache(is_paged: bool, tmp_path: Path):
    calls: Counter[str] = Counter()
    store = MemoryStore(fault=lambda operation, key: calls.update([f"{operation} {key.rpartition('/')[2]}"]))
    reader = cached_reader(store, tmp_path / "new" / "cache", is_paged=is_paged)
    for page in (2, 0, 3, 1, 2):
        pages = range(page, page + 1)
        assert reader.read(WHOLE, pages) == shard_of(store)[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    assert calls["get_range 0.bin"] == (1 if is_paged else 2), "one more for the digests that an earlier dataset has not"
    again = reader_of(store, reader.manifest, tmp_path / "new" / "cache", reader.cache)
    assert again.read(WHOLE, range(4)) == shard_of(store)
    assert calls["get_range 0.bin"] == (1 if is_paged else 2)


def test_without_a_cache_just_the_pages_are_read(tmp_path: Path):
    store = MemoryStore()
    reader = reader_of(store, put_dataset(store, TOKENS), tmp_path, None)
    assert reader.read(WHOLE, range(1, 3)) == shard_of(store)[PAGE_BYTES : 3 * PAGE_BYTES]
    assert reader.traffic.fetched == 2 * PAGE_BYTES
    assert [*tmp_path.iterdir()] == []


def test_what_came_wrong_once_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Lying(MemoryStore):
        lies = 1

        def get_range(self, key: str, start: int, length: int) -> bytes:
            data = super().get_range(key, start, length)
            if key.endswith(self.about) and self.lies:
                self.lies -= 1
                return b"\1" + data[1:]
            return data

    for about in ("0.bin", ".bin"):  # a page, and the digests
        store = Lying()
        store.about = about if about == "0.bin" else put_dataset(store, TOKENS).pages.key
        assert cached_reader(store, tmp_path / store.about.replace("/", "-")).read(WHOLE, range(4)) == shard_of(store)
        assert store.lies == 0
        assert "what came is not what the dataset has, it is fetched again" in caplog.text
        caplog.clear()


def test_a_cached_block_that_is_damaged_or_cut_short_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = MemoryStore()
    reader = cached_reader(store, tmp_path)
    reader.read(WHOLE, range(1))
    (file,) = tmp_path.glob("*.block")
    good, then = file.read_bytes(), file.stat()
    for damaged in (b"\1" + good[1:], good[:-1], b""):
        file.write_bytes(damaged)
        os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
        for pages in (range(1), range(3, 4)):
            assert reader.read(WHOLE, pages) == good[pages.start * PAGE_BYTES : pages.stop * PAGE_BYTES]
        assert file.read_bytes() == good
    assert caplog.text.count("this cached block is damaged, it is fetched again") == 1


def test_digests_of_an_earlier_dataset_that_a_disk_has_spoilt_are_made_again(tmp_path: Path):
    store = MemoryStore()
    manifest = put_dataset(store, TOKENS, is_paged=False)
    reader_of(store, manifest, tmp_path, None).read(WHOLE, range(1))
    (file,) = tmp_path.glob("*.pages")
    good = file.read_bytes()
    assert len(good) == 4 * DIGEST_BYTES
    for damaged in (b"", b"\1" + good[1:]):
        file.write_bytes(damaged)
        assert reader_of(store, manifest, tmp_path, None).read(WHOLE, range(4)) == shard_of(store)
        assert file.read_bytes() == good


def test_what_is_missing_or_too_short_is_told_by_name(tmp_path: Path):
    store = MemoryStore()
    manifest = put_dataset(store, TOKENS)
    assert manifest.pages is not None
    whole = dict(store.objects)
    for key in (manifest.shards[0].key, manifest.pages.key):
        store.objects = dict(whole)
        store.objects[key] = store.objects[key][:-1]
        with pytest.raises(ShardCorrupt, match=rf"^memory:{key}: has \d+ bytes, .*rebuild the dataset"):
            reader_of(store, manifest, tmp_path, None).read(WHOLE, range(4))
        store.delete(key)
        with pytest.raises(ShardMissing, match=rf"^memory:{key}: is in the manifest but not in the store; re"):
            reader_of(store, manifest, tmp_path, None).read(WHOLE, range(4))


def test_of_several_threads_one_fetches_and_all_read_the_same(tmp_path: Path):
    calls: Counter[str] = Counter()
    store = MemoryStore(fault=lambda operation, key: calls.update([key]))
    reader = cached_reader(store, tmp_path)
    read: list[bytes] = []
    threads = [threading.Thread(target=lambda: read.append(reader.read(WHOLE, range(4)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [shard_of(store)] * 8
    assert calls["datasets/tiny/shards/0.bin"] == 2, "written once, read once"


def read_all(root: Path, directory: Path) -> bytes:
    store = LocalStore(root)
    manifest = load_manifest(store, "tiny")
    return reader_of(store, manifest, directory, open_cache(directory, limit_bytes=10**9)).read(WHOLE, range(4))


def test_processes_of_a_node_share_a_cache(tmp_path: Path):
    put_dataset(LocalStore(tmp_path / "store"), TOKENS)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, *others = pool.starmap(read_all, [(tmp_path / "store", tmp_path / "cache")] * 4)
    assert others == [first] * 3
    assert len([*(tmp_path / "cache").iterdir()]) == 1


KILLED_IN_BETWEEN = """
import os, pathlib, signal, sys
from data_pipeline.read import kept
from tests.data_pipeline.read.test_pages import read_all
real = os.fstat
def fstat(descriptor):
    if len(os.listdir(sys.argv[2])) and any(name.endswith('.part') for name in os.listdir(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(descriptor)
kept.os.fstat = fstat
read_all(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""


def test_what_killed_processes_had_begun_is_taken_over_by_the_next(tmp_path: Path):
    put_dataset(LocalStore(tmp_path / "store"), TOKENS)
    cache = tmp_path / "cache"
    for _ in range(3):
        command = [sys.executable, "-c", KILLED_IN_BETWEEN, str(tmp_path / "store"), str(cache)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert len([*cache.iterdir()]) == 1
    read_all(tmp_path / "store", cache)
    assert [path.suffix for path in cache.iterdir()] == [".block"]


def test_the_cache_stays_within_its_bound_and_drops_what_was_not_used_for_longest(tmp_path: Path):
    cache = open_cache(tmp_path, limit_bytes=64 * 1000)
    (tmp_path / "abandoned.block.part").write_bytes(b"x" * 5000)
    earlier = tmp_path / ("5" * 64)
    earlier.write_bytes(b"x" * 40_000)
    os.utime(earlier, (0, 0))
    for number in range(200):
        cache.fetched(f"{number}", lambda: bytes(1000))
        os.utime(tmp_path / f"{number}.block", (number, number))
        assert cache.read("0", 0, 1000) is not None, "it is used again and again"
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 64 * 1000 + 5000 + 40_000 * earlier.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert {"0.block", "199.block"} <= left
    assert len(left) <= 64
    assert not {"abandoned.block.part", earlier.name} & left


def test_many_short_runs_together_stay_within_the_bound_and_leave_no_litter(tmp_path: Path):
    (tmp_path / "killed.block.part").write_bytes(b"half")
    for run in range(200):
        open_cache(tmp_path, limit_bytes=64 * 1000).fetched(f"of-run-{run}", lambda: bytes(900))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 64 * 1000
    assert not list(tmp_path.glob("*.part"))


def test_a_disk_that_takes_nothing_more_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    cache = open_cache(tmp_path / "cache", limit_bytes=10**9)
    cache.directory.rmdir()
    cache.directory.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert [cache.fetched("a", lambda: b"data") for _ in range(2)] == [(b"data", True)] * 2
    assert caplog.text.count("blocks can't be kept here (Not a directory), every one is fetched anew; free space") == 1


def fill_disk(directory: Path, size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the directory takes no file once its files have so many bytes."""

    def refuse_if_full(path: Path) -> None:
        if sum(other.stat().st_size for other in directory.iterdir()) > size_bytes:
            path.unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, "No space left on device")

    def rename(path: Path, target: Path) -> None:
        refuse_if_full(path)
        os.rename(path, target)

    def write_bytes(path: Path, data: bytes) -> None:
        refuse_if_full(path)
        with path.open("wb") as file:
            file.write(data)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_on_a_full_disk_blocks_make_room_long_before_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cache = open_cache(tmp_path, limit_bytes=10**9)
    fill_disk(tmp_path, 10_500, monkeypatch)
    for number in range(40):
        assert cache.fetched(f"{number}", lambda: bytes(1000)) == (bytes(1000), True)
        if (tmp_path / f"{number}.block").exists():
            os.utime(tmp_path / f"{number}.block", (number, number))
    left = {path.name for path in tmp_path.iterdir()}
    assert 5 <= len(left) <= 10
    assert "38.block" in left
    assert "0.block" not in left
    assert caplog.text.count("blocks can't be kept here (no space left), every one is fetched anew; free space") == 1

    fill_disk(tmp_path, sum(path.stat().st_size for path in tmp_path.iterdir()) - 1, monkeypatch)
    assert open_cache(tmp_path, limit_bytes=10**9).directory == tmp_path, "at a worker's start too"
    fill_disk(tmp_path, -1, monkeypatch)
    with pytest.raises(CacheUnusable, match=r"can't keep blocks here \(no space left\); free space, or set BRAID_CACHE$"):
        open_cache(tmp_path, limit_bytes=10**9)


def test_digests_of_an_earlier_dataset_are_used_where_a_full_disk_does_not_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    store = MemoryStore()
    reader = reader_of(store, put_dataset(store, TOKENS, is_paged=False), tmp_path, None)
    fill_disk(tmp_path, -1, monkeypatch)
    assert reader.read(WHOLE, range(4)) == shard_of(store)
    assert "can't keep digests here (No space left on device), this process alone has them" in caplog.text
    assert [*tmp_path.iterdir()] == []


def test_a_cache_that_cant_be_is_refused_at_the_start(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnusable, match=r"file: can't keep blocks here \(File exists\); free space, or set BRAID_CACHE$"):
        open_cache(tmp_path / "file", limit_bytes=10**9)


@given(data=st.binary(max_size=100), size=st.integers(0, 3 * PAGE_BYTES))
def test_there_is_a_digest_for_each_page_and_the_last_may_be_short(data: bytes, size: int):
    data = (data * (size // max(1, len(data)) + 1))[:size] if data else bytes(size)
    digests = page_digests(data)
    assert len(digests) == num_pages(size) * DIGEST_BYTES
    assert wrong_pages(data, digests) == []
