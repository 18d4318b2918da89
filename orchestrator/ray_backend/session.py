"""Joining a Ray cluster as one who asks: what Ray does beside that, and must not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.ray_backend.names import NAMESPACE
from orchestrator.ray_backend.remote_errors import cause_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class CantJoin(Exception):
    """Why not, in one line."""


def join(address: str) -> None:
    """Raises CantJoin."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # under `uv run` Ray would send the working directory to every node
    import ray

    _reread_authentication()
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
