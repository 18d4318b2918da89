"""What a host, or a container on it, has left."""

from pathlib import Path

import pytest

from orchestrator.host_memory import HostMemory, host_memory

HOST = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n"


def root_of(path: Path, *, limit: str = "", used: int = 0, cached: tuple[int, int] = (0, 0)) -> Path:
    (path / "proc").mkdir()
    (path / "proc/meminfo").write_text(HOST)
    if limit:
        group = path / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 7\ninactive_file {cached[0]}\nactive_file {cached[1]}\n")
    return path


@pytest.mark.parametrize("limit", ["", "max", "9000000"])
def test_a_host_has_what_the_kernel_could_give(tmp_path: Path, limit: str):
    assert host_memory(root_of(tmp_path, limit=limit)) == HostMemory(total=1_024_000, available=614_400)


def test_a_container_has_what_its_limit_leaves_and_files_that_the_kernel_may_forget(tmp_path: Path):
    root = root_of(tmp_path, limit="500000", used=400_000, cached=(20_000, 5_000))

    assert host_memory(root) == HostMemory(total=500_000, available=125_000)


def test_some_is_left_free():
    assert HostMemory(total=1000, available=300).room == 250
    assert HostMemory(total=1000, available=30).room == 0


def test_this_host_has_some():
    memory = host_memory()
    assert 0 < memory.available <= memory.total
