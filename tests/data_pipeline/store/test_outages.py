"""A store in a directory, whose file system fills up, breaks or goes away."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.store import local
from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import InvalidKey, KeyExists, StoreError, StoreUnavailable
from data_pipeline.store.root import root_at

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV, errno.EBUSY)


class Failing:
    """A call of the kernel that fails so often, then works again."""

    def __init__(self, call: Callable[..., Any], number: int, times: int) -> None:
        self._call = call
        self._number = number
        self.left = times

    def __call__(self, *arguments: object, **options: object) -> object:
        if self.left:
            self.left -= 1
            raise OSError(self._number, "as the kernel says")
        return self._call(*arguments, **options)


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda delay_s: None)


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("call", ["os.fsync", "os.link", "os.replace", "os.open"])
@pytest.mark.parametrize("act", [LocalStore.put, LocalStore.create])
@pytest.mark.usefixtures("no_sleep")
def test_a_write_goes_through_once_the_file_system_is_itself_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str, act: Callable[..., None]
) -> None:
    """Whatever went wrong with the last step of a create too: a first try that counted is our own."""
    failing = Failing(getattr(os, call.removeprefix("os.")), number, times=2)
    monkeypatch.setattr(call, failing)
    act(LocalStore(tmp_path, deadline_s=60.0), "a/b", b"whole")
    monkeypatch.undo()
    assert LocalStore(tmp_path).get("a/b") == b"whole"
    assert list((tmp_path / ".incoming").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.usefixtures("no_sleep")
def test_a_create_that_was_made_and_not_synced_is_not_another_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store = LocalStore(tmp_path, deadline_s=60.0)
    store.put("a/0", b"")
    failing = Failing(local.sync_directory, number, times=1)
    monkeypatch.setattr(local, "sync_directory", failing)
    store.create("a/1", b"mine")
    assert failing.left == 0
    assert store.get("a/1") == b"mine"
    with pytest.raises(KeyExists):
        store.create("a/1", b"mine")


@pytest.mark.parametrize("number", PASSING)
def test_a_file_system_that_stays_broken_is_an_outage_that_names_cause_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = LocalStore(tmp_path, deadline_s=0.01)
    store.put("a", b"1")
    for call, act in (
        ("os.fsync", lambda: store.put("a", b"2")),
        ("os.fsync", lambda: store.create("b", b"2")),
        ("pathlib.Path.read_bytes", lambda: store.get("a")),
        ("os.scandir", lambda: store.list("")),
        ("pathlib.Path.unlink", lambda: store.delete("a")),
        ("os.listdir", lambda: store.abort_writes("", lambda key: True)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(call, Failing(os.fsync, number, times=1000))
            with pytest.raises(StoreUnavailable, match=rf"^{tmp_path}/?.?: .*; .*storage.root.* \(gave up after \d+ attempts in 0.01 s\)$"):
                act()
    assert (store.get("a"), [info.key for info in store.list("")]) == (b"1", ["a"])
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_writer_whose_marker_comes_second_takes_the_first_ones_and_leaves_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def come_second(source: Path, target: Path) -> None:
        (target / "the-first-ones").mkdir(parents=True)
        rename(source, target)

    monkeypatch.setattr("os.rename", come_second)
    LocalStore(tmp_path).put("a", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".braid-store", ".incoming", "a"]
    assert [marker.name for marker in (tmp_path / ".braid-store").iterdir()] == ["the-first-ones"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting takes root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_full_takes_the_next_object_once_there_is_room(small_disk: Path) -> None:
    store = LocalStore(small_disk, deadline_s=0.2)
    store.put("checkpoints/1", b"1" * 600_000)
    for act in (store.put, store.create):
        with pytest.raises(StoreUnavailable, match=rf"^{small_disk}/checkpoints/2: no space left on the device; free some"):
            act("checkpoints/2", b"2" * 600_000)
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["1"]
    store.delete("checkpoints/1")
    store.create("checkpoints/2", b"2" * 600_000)
    assert store.get("checkpoints/2") == b"2" * 600_000


def test_a_disk_that_was_mounted_read_only_is_an_outage(small_disk: Path) -> None:
    store = LocalStore(small_disk, deadline_s=0.2)
    store.put("a", b"1")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreUnavailable, match="read-only file system; mount"):
        store.put("a", b"2")
    assert store.get("a") == b"1"


# --- a root whose file system vanishes ----------------------------------------------------------------------------------


ACTS: dict[str, Callable[[LocalStore], object]] = {
    "put": lambda store: store.put("runs/first/a", b"2"),
    "create": lambda store: store.create("runs/first/b", b"2"),
    "get": lambda store: store.get("runs/first/a"),
    "get what never was": lambda store: store.get("runs/first/never"),
    "get_range": lambda store: store.get_range("runs/first/a", 0, 1),
    "list": lambda store: store.list("runs/"),
    "delete": lambda store: store.delete("runs/first/a"),
    "abort_writes": lambda store: store.abort_writes("runs/", lambda key: True),
}


def bare_mount_point(root: Path) -> None:
    root.mkdir()


def with_what_another_wrote_there(root: Path) -> None:
    """Before it was seen that the file system is away."""
    (root / "runs/first/journal").mkdir(parents=True)
    (root / "runs/first/a").write_bytes(b"other")


def with_another_store(root: Path) -> None:
    """In a process of its own, since this one would know better."""
    code = "import sys, pathlib; from data_pipeline.store.local import LocalStore; LocalStore(pathlib.Path(sys.argv[1])).put('runs/x', b'')"
    subprocess.run([sys.executable, "-c", code, root], check=True)


def gone(root: Path) -> None:
    pass


def contents(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("replace", [bare_mount_point, with_what_another_wrote_there, with_another_store, gone])
@pytest.mark.parametrize("has_seen_it", [True, False])
def test_where_the_store_was_is_no_place_to_write_in_and_what_it_holds_is_not_missing(
    tmp_path: Path, act: str, replace: Callable[[Path], None], has_seen_it: bool
) -> None:
    """A process that has seen the store knows its marker; one of a run knows that the run is there."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    LocalStore(root).put("runs/first/a", b"1")
    LocalStore(root).put("runs/first/config/0001.json", b"1")
    if not has_seen_it:
        root_at.cache_clear()
    root.rename(elsewhere)
    replace(root)
    before = contents(root)
    store = LocalStore(root, holds="" if has_seen_it else "runs/first/config")

    with pytest.raises(StoreUnavailable, match=rf"^{root}: the store is not there \(.*\); is its file system mounted\? Mount it again"):
        ACTS[act](store)

    assert contents(root) == before
    if root.exists():
        root.rename(tmp_path / "later")
    elsewhere.rename(root)
    assert store.get("runs/first/a") == b"1"
    store.create("runs/first/b", b"2")
    assert [info.key for info in store.list("runs/first/")] == ["runs/first/a", "runs/first/b", "runs/first/config/0001.json"]


def test_a_write_that_is_under_way_while_the_root_is_replaced_ends_in_the_store_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    store, link = LocalStore(root), os.link
    store.put("a", b"1")

    def unmount_and_link(source: Path, target: Path) -> None:
        root.rename(elsewhere)
        root.mkdir()
        link(source, target)

    monkeypatch.setattr("os.link", unmount_and_link)
    store.create("b", b"2")
    assert contents(root) == []
    assert LocalStore(elsewhere).get("b") == b"2"


def test_a_real_mount_that_vanishes_is_waited_for(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(small_disk, deadline_s=60.0)
    store.put("commits/1", b"1")
    subprocess.run(["mkdir", small_disk.parent / "kept"], check=True)
    subprocess.run(["mount", "--bind", small_disk, small_disk.parent / "kept"], check=True)
    subprocess.run(["umount", "-l", small_disk], check=True)
    naps: list[float] = []

    def nap(delay_s: float) -> None:
        naps.append(delay_s)
        assert contents(small_disk) == []
        if len(naps) == 3:
            subprocess.run(["mount", "--bind", small_disk.parent / "kept", small_disk], check=True)

    monkeypatch.setattr("time.sleep", nap)
    store.create("commits/2", b"2")
    assert len(naps) == 3
    assert [info.key for info in store.list("commits/")] == ["commits/1", "commits/2"]
    subprocess.run(["umount", "-l", small_disk.parent / "kept"], check=True)


def test_a_file_is_no_store_whoever_looks_at_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    store = LocalStore(path)
    for act in (lambda: store.list(""), lambda: store.get("a"), lambda: store.put("a", b"")):
        with pytest.raises(StoreError, match=r"file: is a file, and no store; choose a directory$"):
            act()


def test_a_store_of_an_earlier_version_is_read_as_it_is_and_marked_by_the_next_write(tmp_path: Path) -> None:
    (tmp_path / "runs/first/config").mkdir(parents=True)
    (tmp_path / "runs/first/a").write_bytes(b"1")
    assert LocalStore(tmp_path).get("runs/first/a") == b"1"
    LocalStore(tmp_path, holds="runs/first/config").put("runs/first/b", b"2")
    assert contents(tmp_path) == [".incoming", "runs", "runs/first", "runs/first/a", "runs/first/b", "runs/first/config"]
    LocalStore(tmp_path).put("runs/first/c", b"3")
    [marker] = (tmp_path / ".braid-store").iterdir()
    LocalStore(tmp_path).put("runs/first/d", b"4")
    assert [marker] == list((tmp_path / ".braid-store").iterdir())
    assert [info.key for info in LocalStore(tmp_path).list("")] == [f"runs/first/{name}" for name in "abcd"]


def test_of_many_processes_that_write_first_all_see_one_store(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from data_pipeline.store.local import LocalStore; LocalStore(pathlib.Path(sys.argv[1])).put(sys.argv[2], b'')"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "root", f"key{n}"]) for n in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    assert len(list((tmp_path / "root/.braid-store").iterdir())) == 1
    assert len([path for path in (tmp_path / "root").iterdir() if path.name.startswith(".braid")]) == 1


@pytest.mark.parametrize("key", [".braid-store", ".braid-store/x", "a/.braid-store.1/b"])
def test_the_marker_is_no_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidKey):
        LocalStore(tmp_path).put(key, b"")
