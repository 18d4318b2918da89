"""The demo's home leaves no process and no file behind."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from launch.demo.home import processes_of_home, sweep_killed, temporary_home
from orchestrator.node.processes import look_at

ROOT = Path(__file__).parents[3]


def a_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


@pytest.mark.parametrize("keep", [False, True])
def test_no_process_of_the_demo_outlives_it_and_files_only_where_wanted(
    keep: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    homes: list[Path] = []
    children: list[subprocess.Popen[bytes]] = []

    def interrupted_demo() -> None:
        with temporary_home(keep=keep, console=Console(quiet=True)) as home:
            homes.append(home)
            (home / "file").touch()
            children.append(a_process())
            wait_until(lambda: processes_of_home(home) == (f"process {children[0].pid} of {home}",))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_demo()
    assert os.environ["BRAID_HOME"] == str(homes[0])
    assert children[0].wait(10) == -9
    assert homes[0].exists() is keep
    assert [path.name for path in homes[0].glob("*")] == ["file"] * keep


DEMO = "from launch.demo.home import temporary_home; from rich.console import Console; import subprocess, sys, time\n"
DEMO += "with temporary_home(keep=False, console=Console(quiet=True)) as home:\n"
DEMO += "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
DEMO += "    print(home, child.pid, flush=True); time.sleep(60)\n"


def test_the_next_demo_removes_what_a_killed_one_left_and_nothing_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "braid-demo-kept").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", DEMO], env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        home, child = demo.stdout.readline().split()
        assert (Path(home).parent, Path(home).exists()) == (tmp_path, True)
        ray_dir = Path(tempfile.mkdtemp(prefix="braid-", dir="/tmp"))
        (Path(home) / "local-cluster").mkdir()
        (Path(home) / "local-cluster" / "ray-dir").write_text(str(ray_dir))
        sweep_killed()
        assert Path(home).exists(), "its demo lives"
        demo.kill()
    with temporary_home(keep=False, console=Console(quiet=True)) as other:
        assert set(tmp_path.iterdir()) == {other, tmp_path / "braid-demo-kept"}
    assert look_at(int(child)) is None
    assert not ray_dir.exists()


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_at_s, "waited 10 s"
        time.sleep(0.01)
