"""Joining a Ray cluster. Ray ends a process that it can't serve, whatever the process would rather do, so another one tries it first.

As a program, `python -P -m orchestrator.ray_backend.session ADDRESS` joins and leaves again; what keeps it from that is on its stdout.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.deadlines import JOINED_WITHIN_S
from orchestrator.node.own_python import own_python
from orchestrator.ray_backend.names import NAMESPACE
from orchestrator.ray_backend.remote_errors import cause_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FATAL = re.compile(r"^\[.* [CEF] \d+ \d+\] (?:\(\w+\) )?\S+:\d+:\s*(.+)$", re.MULTILINE)
"""What Ray's core says before it aborts, without time, process and place."""


class CantJoin(Exception):
    """Why not, in one line."""


def join_tried(address: str) -> None:
    """Joins the cluster after another process has. Raises CantJoin."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run` Ray would send the working directory to every node
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # else Ray answers SIGTERM with a stack, before this process can
    command = [sys.executable, "-P", "-m", "orchestrator.ray_backend.session", address]
    pipe, environment = subprocess.PIPE, own_python(os.environ)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, errors="replace"
    ) as trial:
        try:
            import ray  # noqa: F401 — takes as long as the trial, which runs meanwhile

            said, shouted = trial.communicate(timeout=JOINED_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise CantJoin(f"no answer within {JOINED_WITHIN_S:g} s") from error
        finally:
            trial.kill()
    if trial.returncode:
        raise CantJoin(why_it_ended(said, shouted, trial.returncode))
    join(address)


def why_it_ended(said: str, shouted: str, status: int) -> str:
    """`said` is our own line, `shouted` what Ray's core printed before it ended the process."""
    fatal = _FATAL.search(shouted)
    reason = said.strip() or (fatal[1].strip() if fatal else "")
    return reason or f"Ray ended the process that asked, with status {status}"


def join(address: str) -> None:
    """Raises CantJoin, or ends the process."""
    import ray

    _reread_authentication()
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it warns of being in another thread than the first
    with _loopback_as_it_is(address.rpartition(":")[0] in LOOPBACK):
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                job_config=_job_without_paths(),
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise CantJoin(cause_of(error)) from error
    _mute()


class _NoPaths(list[str]):
    """Ray would put this process's directories in front of what controllers and agents import."""

    def extend(self, paths: Iterable[str]) -> None:
        pass


def _job_without_paths() -> Any:
    from ray.job_config import JobConfig

    job = JobConfig()
    job._py_driver_sys_path = _NoPaths()
    return job


def _reread_authentication() -> None:
    """Ray read these variables when it was first imported, which may have been before they were set."""
    import ray

    core: Any = ray._raylet
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def _mute() -> None:
    """Ray prints every process that dies anywhere in the cluster on our stdout, even with log_to_driver=False; this ends its listener."""
    import ray

    driver: Any = ray._private.worker.global_worker
    driver.threads_stopped.set()
    driver.gcs_error_subscriber.close()


@contextmanager
def _loopback_as_it_is(is_loopback: bool) -> Iterator[None]:
    """Ray replaces a loopback address by the host's outer one, where a cluster that only listens on loopback can't be reached."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not is_loopback
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _try(address: str) -> int:
    import ray

    try:
        join(address)
    except CantJoin as error:
        print(error)
        return 1
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(_try(sys.argv[1]))
