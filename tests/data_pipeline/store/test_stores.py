import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.local import LocalStore
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import AccessDenied, KeyExists, KeyMissing, ObjectStore, StoreError
from data_pipeline.store.s3 import S3Store
from tests.data_pipeline.store.s3_world import leave_an_upload
from tests.data_pipeline.store.store_contract import StoreContract
from tests.fakes.memory_store import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()

    def leave_incomplete(self, store: ObjectStore, key: str) -> None:
        assert isinstance(store, MemoryStore)
        store.incomplete.add(key)
        store.modified_at_s[key] = store.clock()


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return open_store(StorageConfig(root=str(tmp_path / "not" / "yet" / "there")))

    def leave_incomplete(self, store: ObjectStore, key: str) -> None:
        kill_a_writer(store.url("").removesuffix("/"), key)


class TestS3Store(StoreContract):
    knows_when_writes_began = False  # moto says 2010 of each

    @pytest.fixture
    def store(self, s3_store: S3Store) -> ObjectStore:
        return s3_store

    def leave_incomplete(self, store: ObjectStore, key: str) -> None:
        leave_an_upload(store, key)


def kill_a_writer(root: str, key: str) -> None:
    """Ends a process after it has written an object's bytes and before the object is there."""
    code = (
        "import os, pathlib, signal, sys; from data_pipeline.store.local import LocalStore; "
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL); "
        "LocalStore(pathlib.Path(sys.argv[1])).put(sys.argv[2], b'half')"
    )
    assert subprocess.run([sys.executable, "-c", code, root, key], check=False).returncode == -9


def test_a_writer_that_dies_halfway_leaves_nothing_that_others_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put("checkpoint/manifest", b"old")

    def die(*arguments: object) -> None:
        assert [file.read_bytes() for file in (tmp_path / ".incoming").iterdir()] == [b"new"]
        raise SystemExit

    for operation, call in (("os.replace", store.put), ("os.link", store.create)):
        with monkeypatch.context() as patch:
            patch.setattr(operation, die)
            with pytest.raises(SystemExit):
                call("checkpoint/manifest", b"new")

    assert store.get("checkpoint/manifest") == b"old"
    assert [info.key for info in store.list("")] == ["checkpoint/manifest"]


def test_leftovers_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    (tmp_path / ".incoming" / "leftover").write_bytes(b"half")
    assert [info.key for info in store.list("")] == ["a"]


def test_a_leftover_of_a_long_key_is_known_by_its_beginning(tmp_path: Path) -> None:
    kill_a_writer(str(tmp_path), "runs/first/" + "é" * 200)
    store = LocalStore(tmp_path)
    assert store.abort_writes("runs/first/é", lambda key: len(key) > 30) == 1
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_leftover_that_tells_no_key_stays(tmp_path: Path) -> None:
    """Earlier versions named them so."""
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    leftover = tmp_path / ".incoming" / ("0" * 32)
    leftover.write_bytes(b"half")
    assert store.abort_writes("a", lambda key: True) == 0
    assert leftover.exists()


def test_a_create_whose_answer_got_lost_on_the_way_from_a_file_server_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, link = LocalStore(tmp_path), os.link

    def link_twice(source: Path, target: Path) -> None:
        """As NFS does it: the answer to the first call got lost, and the client asked again."""
        link(source, target)
        link(source, target)

    monkeypatch.setattr("os.link", link_twice)
    store.create("journal/1", b"mine")
    assert store.get("journal/1") == b"mine"
    with pytest.raises(KeyExists):
        store.create("journal/1", b"mine")
    assert list((tmp_path / ".incoming").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_that_can_not_link_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(StoreError, match=r"/journal/1: this file system has no hard links; choose another storage.root$"):
        LocalStore(tmp_path).create("journal/1", b"mine")
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_what_is_synced_is_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def note_size(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            synced.append(status.st_size)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", note_size)
    LocalStore(tmp_path).put("key", b"12345")
    assert synced == [5]


def test_a_key_below_an_object_is_one_clear_error_in_a_directory(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    with pytest.raises(StoreError, match="choose another key"):
        store.create("a/b", b"2")
    with pytest.raises(KeyMissing):
        store.get("a/b")
    store.delete("a/b")
    store.put("directory/b", b"2")
    with pytest.raises(KeyMissing, match="is a directory"):
        store.get("directory")


def test_a_full_disk_and_a_forbidden_directory_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def fail_with(number: int):
        def fail(descriptor: int) -> None:
            raise OSError(number, "as the kernel says")

        return fail

    for number, kind, remedy in (
        (errno.ENOSPC, StoreError, "no space left on the device; free some"),
        (errno.EDQUOT, StoreError, "disk quota exceeded; free some"),
        (errno.EROFS, StoreError, "read-only file system; mount the file system of storage.root for writing"),
        (errno.EACCES, AccessDenied, "permission denied; give"),
    ):
        monkeypatch.setattr("os.fsync", fail_with(number))
        with pytest.raises(kind, match=remedy):
            store.put("key", b"1")
    assert store.list("") == []


def test_a_relative_root_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store(StorageConfig(root="here"))
    monkeypatch.chdir("/")
    store.put("key", b"1")
    assert (tmp_path / "here" / "key").read_bytes() == b"1"


def test_a_root_that_can_not_be_made_is_named() -> None:
    with pytest.raises(StoreError, match=r"^/proc/nope: this directory can't be created; choose another storage\.root$"):
        open_store(StorageConfig(root="/proc/nope")).put("a", b"")


def test_a_directory_goes_with_its_last_object_and_nothing_else_does(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    for key in ("a/b/c/one", "a/b/c/two", "a/other"):
        store.put(key, b"")
    directories = {"a", "a/b", "a/b/c"}
    for key, left in (("a/b/c/one", directories), ("a/b/c/two", {"a"}), ("a/b/c/two", {"a"}), ("a/other", set())):
        store.delete(key)
        found = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_dir()}
        assert {name for name in found if not name.startswith(".")} == left
    assert store.root.is_dir()


@pytest.mark.parametrize(("act", "call"), [(LocalStore.put, "os.replace"), (LocalStore.create, "os.link")])
def test_a_write_into_a_directory_whose_last_object_is_just_deleted_succeeds(
    act: Callable[..., None], call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, place = LocalStore(tmp_path), LocalStore(tmp_path), getattr(os, call.removeprefix("os."))
    store.put("a/b/before", b"")

    def delete_and_place(source: Path, target: Path) -> None:
        monkeypatch.undo()
        other.delete("a/b/before")
        assert not (tmp_path / "a").exists()
        place(source, target)

    monkeypatch.setattr(call, delete_and_place)
    act(store, "a/b/now", b"here")
    assert store.get("a/b/now") == b"here"
    assert [info.key for info in store.list("")] == ["a/b/now"]


def test_writers_and_deleters_of_one_directory_never_hinder_each_other(tmp_path: Path) -> None:
    def put_and_delete(number: int) -> None:
        store = LocalStore(tmp_path)
        for again in range(100):
            store.put(f"a/b/{number % 2}/{number}", b"")
            store.create(f"a/b/{number}-{again}", b"")
            store.delete(f"a/b/{number % 2}/{number}")
            store.delete(f"a/b/{number}-{again}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put_and_delete, range(8)))
    assert LocalStore(tmp_path).list("") == []
    assert not (tmp_path / "a").exists()


def test_an_object_is_no_directory_of_others_however_deep(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"")
    for key in ("a/b", "a/b/c"):
        with pytest.raises(StoreError, match=r"/a: is an object, and can't be a directory of others too; choose another key$"):
            store.put(key, b"")
