"""What the doctor makes of what it finds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import AccessDenied, ObjectStore, StoreUnavailable
from launch.config.storage import storage_of
from launch.machine.checks import Check, judge_clock, judge_disk, judge_gpus, judge_kernels, judge_memory, judge_packages, judge_python
from launch.machine.doctor import DEADLINE_S, check_store, examine
from tests.fakes.memory_store import MemoryStore

REQUIREMENTS = ["torch<2.14,>=2.11", "ray<2.61,>=2.60", 'pytest>=8; extra == "dev"']


def levels(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks}


def test_only_the_supported_pythons_pass() -> None:
    assert [judge_python((3, minor)).level for minor in (10, 11, 12, 13)] == ["fail", "ok", "ok", "fail"]


def test_packages_are_held_against_the_projects_own_ranges() -> None:
    checks = judge_packages(REQUIREMENTS, {"torch": "2.13.0+cpu", "ray": "2.59.1"})
    assert levels(checks) == {"torch": "ok", "ray": "fail"}
    assert "install ray<2.61,>=2.60" in checks[1].remedy
    assert judge_packages(REQUIREMENTS, {})[0].found == "not installed"


def test_no_gpu_is_fine_but_a_gpu_that_torch_does_not_see_is_not() -> None:
    assert judge_gpus([], None, driver_present=False).level == "ok"
    assert judge_gpus([], None, driver_present=True).level == "fail"
    assert judge_gpus(["H200", "H200"], None, driver_present=True).level == "fail"
    assert judge_gpus(["H200", "H200"], "3.5.0", driver_present=True).found == "2 × H200, triton 3.5.0"


def test_a_gpu_that_computes_something_else_fails_by_name() -> None:
    assert judge_kernels(0, "", 2.31).found == "right, forward and backward, in 2.3 s"
    check = judge_kernels(3, "GPU 3 (NVIDIA H200, 1f0c): delta rule, gradient of k: 0.4 off", 2.3)
    assert (check.name, check.level) == ("kernels, GPU 3", "fail")
    assert "gradient of k: 0.4 off" in check.found
    assert "train without this GPU" in check.remedy


def test_little_disk_or_memory_warns() -> None:
    assert (judge_disk("/x", 2**40).level, judge_disk("/x", 2**30).level) == ("ok", "warn")
    assert (judge_memory(2**40).level, judge_memory(2**30).level) == ("ok", "warn")


@pytest.mark.parametrize(("store_s", "level"), [(100.5, "ok"), (99.0, "ok"), (106.0, "ok"), (107.0, "warn"), (93.0, "warn")])
def test_the_clock_is_held_against_the_stores_with_a_second_of_rounding(store_s: float, level: str) -> None:
    assert judge_clock(store_s, 100.0, 101.0).level == level


def test_a_good_store_passes_and_keeps_nothing(tmp_path: Path) -> None:
    checks = check_store(storage_of(str(tmp_path)))
    assert [check.level for check in checks] == ["ok"] * 4, checks
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def opens(store: ObjectStore) -> Callable[[object], ObjectStore]:
    return lambda storage: store


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
    checks = list(examine(storage_of(str(tmp_path)), home=tmp_path / "not" / "there", cluster=lambda: cluster))
    assert {"python", "torch", "ray", "gpus", "disk", "memory", "create-if-absent", "clock", "cluster"} <= set(levels(checks))
