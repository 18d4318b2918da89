"""What a worker process is told when it is started. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import StorageConfig
from orchestrator import codec


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerEnvironment:
    run: str
    storage: StorageConfig
    config_version: int
    attempt: int
    report_fd: int | None
    """Where messages go; None says nothing to nobody."""
    agent_pid: int | None
    """Process id of the agent, which must be our parent; None without one."""
    cache_dir: Path
    """Where token shards are kept; shared by the workers of a node."""


def read_environment(variables: Mapping[str, str]) -> WorkerEnvironment:
    """From the variables that an agent sets. Raises ValueError that names the variable."""
    return WorkerEnvironment(
        run=_required(variables, "BRAID_RUN"),
        storage=codec.from_json(StorageConfig, _required(variables, "BRAID_STORAGE").encode(), "BRAID_STORAGE"),
        config_version=_number(variables, "BRAID_CONFIG_VERSION"),
        attempt=_number(variables, "BRAID_ATTEMPT"),
        report_fd=_number(variables, "BRAID_REPORT_FD") if "BRAID_REPORT_FD" in variables else None,
        agent_pid=_number(variables, "BRAID_AGENT_PID") if "BRAID_AGENT_PID" in variables else None,
        cache_dir=cache_dir(variables),
    )


def cache_dir(variables: Mapping[str, str]) -> Path:
    home = variables.get("BRAID_HOME") or os.path.join(variables.get("HOME", "."), ".braid")
    return Path(home).expanduser() / "cache"


def _required(variables: Mapping[str, str], name: str) -> str:
    try:
        return variables[name]
    except KeyError as error:
        raise ValueError(f"{name}: not set; workers are started by an agent, or with torchrun by `python -m launch.train`") from error


def _number(variables: Mapping[str, str], name: str) -> int:
    text = _required(variables, name)
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r}: not a whole number; it is set by the agent, leave it alone")
    return int(text)
