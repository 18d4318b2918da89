"""The demo's home leaves no process and no file behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from launch.demo.home import processes_of_home, temporary_home


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


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < give_up_at_s, "waited 10 s"
        time.sleep(0.01)
