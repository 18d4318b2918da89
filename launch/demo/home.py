"""What a demo leaves on this machine: one directory and processes that know it, so that everything of it can be found and removed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from orchestrator.identity import RunIdentity
from orchestrator.node.processes import kill_all, pids_with_environment
from orchestrator.ray_backend.local.cluster import LocalClusterFailed, stop_local_cluster

GONE_WITHIN_S = 5.0
PREFIX = "braid-demo-"
LOCK = "demo.lock"
"""In a demo's home, locked for as long as the demo lives; not in one that is kept."""


@contextmanager
def temporary_home(*, keep: bool, console: Console) -> Iterator[Path]:
    """BRAID_HOME of this process and of all that it starts. Nothing of it survives the block, files only with `keep`.

    What demos that were killed left is removed first.
    """
    sweep_killed()
    home = Path(tempfile.mkdtemp(prefix=PREFIX))
    os.environ["BRAID_HOME"] = str(home)
    lock = (home / f"{LOCK}.new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(lock.name, home / LOCK)
    try:
        yield home
    finally:
        kill_all(lambda: pids_with_environment("BRAID_HOME", str(home)))
        if keep:
            (home / LOCK).unlink()
            console.print(f"the demo's files are in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
        lock.close()


def sweep_killed() -> None:
    """Removes homes whose demo was killed, with the processes and the local cluster of each. What can't be removed stays."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError, LocalClusterFailed), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its demo lives
            stop_local_cluster(path.parent)
            kill_all(partial(pids_with_environment, "BRAID_HOME", str(path.parent)))
            shutil.rmtree(path.parent, ignore_errors=True)


def workers_left(run: RunIdentity) -> tuple[str, ...]:
    """The workers that outlive their run, one line each; they get a moment to leave."""
    give_up_at_s = time.monotonic() + GONE_WITHIN_S
    while (pids := pids_with_environment("BRAID_RUN_ID", run.id)) and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    return tuple(f"worker process {pid} of {run.name}" for pid in pids)


def processes_of_home(home: Path) -> tuple[str, ...]:
    """The processes that were started with this BRAID_HOME and still run, one line each."""
    return tuple(f"process {pid} of {home}" for pid in pids_with_environment("BRAID_HOME", str(home)))
