"""A store in a directory, whose file system fills up, breaks or goes away."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.store import local
from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import KeyExists, StoreUnavailable

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
    failing = Failing(local._sync_directory, number, times=1)
    monkeypatch.setattr(local, "_sync_directory", failing)
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
