"""What a host, or a container on it, has left."""

from pathlib import Path

import pytest

from orchestrator.host_memory import HostMemory, host_memory

HOST = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a host without groups of processes."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(HOST)
    return tmp_path


def limit(root: Path, group: str, limit: str, *, used: int = 0, cached: tuple[int, int] = (0, 0)) -> None:
    """As cgroup v2 shows it."""
    path = root / "sys/fs/cgroup" / group
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 7\ninactive_file {cached[0]}\nactive_file {cached[1]}\n")


def is_in(root: Path, *groups: str) -> None:
    (root / "proc/self/cgroup").write_text("".join(f"{group}\n" for group in groups))


def test_a_host_has_what_the_kernel_could_give(root: Path):
    assert host_memory(root) == HostMemory(total=1_024_000, available=614_400)


@pytest.mark.parametrize("most", ["max", "9000000"])
def test_a_limit_that_is_more_than_the_host_has_is_none(root: Path, most: str):
    is_in(root, "0::/")
    limit(root, "", most)

    assert host_memory(root) == HostMemory(total=1_024_000, available=614_400)


def test_a_container_has_what_its_limit_leaves_and_files_that_the_kernel_may_forget(root: Path):
    is_in(root, "0::/")
    limit(root, "", "500000", used=400_000, cached=(20_000, 5_000))

    assert host_memory(root) == HostMemory(total=500_000, available=125_000)


def test_a_job_has_what_the_tightest_group_above_it_leaves(root: Path):
    """As Slurm and systemd limit processes, which see the host's groups."""
    is_in(root, "0::/system.slice/job_7/step_0")
    limit(root, "system.slice/job_7/step_0", "max")
    limit(root, "system.slice/job_7", "500000", used=400_000)
    limit(root, "system.slice", "600000", used=410_000)

    assert host_memory(root) == HostMemory(total=500_000, available=100_000)


@pytest.mark.parametrize("seen_as", ["slurm/job_7", "."], ids=["the host's groups", "a container's own"])
def test_a_job_under_the_older_control_groups_has_what_its_limit_leaves(root: Path, seen_as: str):
    is_in(root, "12:cpu,cpuacct:/", "4:memory:/slurm/job_7", "0::/")
    group = root / "sys/fs/cgroup/memory" / seen_as
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("500000\n")
    (group / "memory.usage_in_bytes").write_text("400000\n")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 20000\ntotal_active_file 5000\n")

    assert host_memory(root) == HostMemory(total=500_000, available=125_000)


def test_some_is_left_free():
    assert HostMemory(total=1000, available=300).room == 250
    assert HostMemory(total=1000, available=30).room == 0


def test_this_host_has_some():
    memory = host_memory()
    assert 0 < memory.available <= memory.total
