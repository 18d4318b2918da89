"""What the doctor finds in a store, and that it looks at everything."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import AccessDenied, ObjectStore, StoreUnavailable
from launch.config.storage import storage_of
from launch.machine.checks import Check
from launch.machine.doctor import DEADLINE_S, _check_leftovers, check_cluster, check_store, examine
from launch.runs.connection import ClusterNode
from tests.fakes.memory_store import MemoryStore
from tests.launch.machine.test_checks import levels


def opens(store: ObjectStore) -> Callable[[object], ObjectStore]:
    return lambda storage: store


def test_a_good_store_passes_and_keeps_nothing(tmp_path: Path) -> None:
    checks = check_store(storage_of(str(tmp_path)))
    assert [check.level for check in checks] == ["ok"] * 5, checks
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_killed_writers_left_is_removed_after_a_day_and_told() -> None:
    store = MemoryStore(incomplete={"datasets/tiny/shards/0.bin"})
    store.objects["doctor/killed"] = b""
    store.put("doctor/lives", b"")
    assert _check_leftovers(store, time.time()).found == "2 incomplete objects of killed writers, now removed"
    assert (store.incomplete, list(store.objects)) == (set(), ["doctor/lives"])


def test_a_store_that_overwrites_instead_of_refusing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Careless(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            self.put(key, data)

    monkeypatch.setattr("launch.machine.doctor.open_store", opens(Careless()))
    checks = check_store(storage_of(str(tmp_path)))
    assert levels(checks)["create-if-absent"] == "fail"


def test_a_store_without_ranges_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Whole(MemoryStore):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            return self.get(key)

    monkeypatch.setattr("launch.machine.doctor.open_store", opens(Whole()))
    assert levels(check_store(storage_of(str(tmp_path))))["range reads"] == "fail"


def test_a_store_that_says_no_fails_with_its_own_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def deny(operation: str, key: str) -> None:
        raise AccessDenied(f"{key}: access denied; check AWS_ACCESS_KEY_ID")

    monkeypatch.setattr("launch.machine.doctor.open_store", opens(MemoryStore(fault=deny)))
    (check,) = check_store(storage_of(str(tmp_path)))
    assert (check.level, check.remedy) == ("fail", "check AWS_ACCESS_KEY_ID")


def test_a_store_that_does_not_answer_is_given_up_early_and_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def silent(operation: str, key: str) -> None:
        asked.append(operation)
        raise StoreUnavailable(f"{key}: no answer; check the network")

    def open_store(storage: StorageConfig) -> ObjectStore:
        assert storage.deadline_s == DEADLINE_S
        return MemoryStore(fault=silent)

    monkeypatch.setattr("launch.machine.doctor.open_store", open_store)
    (check,) = check_store(storage_of(str(tmp_path)))
    assert (check.level, asked) == ("fail", ["create"])


def test_the_whole_examination_names_every_part(tmp_path: Path) -> None:
    cluster = Check(name="cluster", level="ok", found="none")
    checks = list(examine(storage_of(str(tmp_path)), home=tmp_path / "not" / "there", cache=tmp_path / "cache", cluster=lambda: [cluster]))
    assert {"python", "torch", "ray", "gpus", "disk", "memory", "create-if-absent", "clock", "cluster"} <= set(levels(checks))


class FakeCluster:
    def nodes(self) -> list[ClusterNode]:
        return [ClusterNode(node="f", machine="gpu07", address="10.0.0.7", is_alive=True, num_cpus=96.0, num_gpus=8.0)]


@pytest.mark.parametrize(
    ("address", "environment", "level"),
    [("", {}, "ok"), ("head:6379", {"RAY_memory_monitor_refresh_ms": "0"}, "ok"), ("head:6379", {}, "warn")],
    ids=["local", "switched off here", "nothing known"],
)
def test_rays_memory_monitor_is_looked_at_where_there_is_a_cluster(
    address: str, environment: dict[str, str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.machine.doctor.reachable", lambda address: nullcontext(FakeCluster()))
    assert levels(check_cluster(address, environment)) == {"cluster": "ok", "memory monitor": level}


def test_where_there_is_no_cluster_there_is_no_memory_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path))
    assert levels(check_cluster("", {})) == {"cluster": "ok"}


@pytest.mark.parametrize("below", ["", "home"])
def test_a_home_that_can_not_be_one_fails(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = examine(storage_of(str(tmp_path)), home=tmp_path / "file" / below, cache=tmp_path / "file" / below, cluster=list)
    disk = next(check for check in found if check.name == "disk")
    assert (disk.level, disk.remedy) == ("fail", "set BRAID_HOME to a directory that can be written to")


@pytest.mark.parametrize(("kind", "level"), [("nfs4", "fail"), ("", "ok")])
def test_the_disk_of_the_cache_is_looked_at_where_it_lies(kind: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.machine.doctor.network_file_system", lambda path: kind)
    monkeypatch.setattr("launch.machine.checks.MIN_DISK_BYTES", 1)
    monkeypatch.setattr("launch.machine.doctor.check_store", lambda storage: [])
    monkeypatch.setattr("launch.machine.doctor.check_upload_rule", lambda storage: Check(name="upload rule", level="ok", found=""))
    found = examine(storage_of("s3://bucket/x"), home=tmp_path, cache=tmp_path / "cache", cluster=list)
    cache = next(check for check in found if check.name == "cache")
    assert cache.level == level
    assert str(tmp_path / "cache") in cache.found
    assert (f"is on {kind}" in cache.found, "set BRAID_CACHE" in cache.remedy) == (bool(kind), bool(kind))
