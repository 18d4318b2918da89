"""What a demo leaves on this machine: one directory and processes that know it, so that everything of it can be found and removed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from orchestrator.identity import RunIdentity
from orchestrator.node.processes import kill_all, pids_with_environment

GONE_WITHIN_S = 5.0


@contextmanager
def temporary_home(*, keep: bool, console: Console) -> Iterator[Path]:
    """BRAID_HOME of this process and of all that it starts. Nothing of it survives the block, files only with `keep`."""
    home = Path(tempfile.mkdtemp(prefix="braid-demo-"))
    os.environ["BRAID_HOME"] = str(home)
    try:
        yield home
    finally:
        kill_all(lambda: pids_with_environment("BRAID_HOME", str(home)))
        if keep:
            console.print(f"the demo's files are in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


def workers_left(run: RunIdentity) -> tuple[str, ...]:
    """The workers that outlive their run, one line each; they get a moment to leave."""
    give_up_at_s = time.monotonic() + GONE_WITHIN_S
    while (pids := pids_with_environment("BRAID_RUN_ID", run.id)) and time.monotonic() < give_up_at_s:
        time.sleep(0.05)
    return tuple(f"worker process {pid} of {run.name}" for pid in pids)


def processes_of_home(home: Path) -> tuple[str, ...]:
    """The processes that were started with this BRAID_HOME and still run, one line each."""
    return tuple(f"process {pid} of {home}" for pid in pids_with_environment("BRAID_HOME", str(home)))
