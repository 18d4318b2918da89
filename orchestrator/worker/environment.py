"""What a worker process is told when it is started; what it is to train comes as its first order. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.paths import expanded
from data_pipeline.read.file_systems import network_file_system
from orchestrator.messages import Assign


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerEnvironment:
    order_fd: int
    """Where orders come from."""
    report_fd: int
    """Where messages go."""
    agent_pid: int
    """Process id of the agent, which must be our parent."""
    memory_fds: tuple[int, ...]
    """Files of the agent's memory for snapshots, of this worker's place on its node."""
    cache_dir: Path
    """Where blocks of tokens are kept; shared by the workers of a node."""


def read_environment(variables: Mapping[str, str]) -> WorkerEnvironment:
    """From the variables that an agent sets. Raises ValueError that names the variable."""
    return WorkerEnvironment(
        order_fd=_number(variables, "BRAID_ORDER_FD"),
        report_fd=_number(variables, "BRAID_REPORT_FD"),
        agent_pid=_number(variables, "BRAID_AGENT_PID"),
        memory_fds=tuple(int(number) for number in variables.get("BRAID_MEMORY_FDS", "").split(",") if number.isdecimal()),
        cache_dir=cache_dir(variables),
    )


def cache_dir(variables: Mapping[str, str]) -> Path:
    """BRAID_CACHE, or a directory in BRAID_HOME; where that is on the network, one on this machine. Raises HomeUnknown."""
    if chosen := variables.get("BRAID_CACHE"):
        return expanded(chosen)
    usual = expanded(variables.get("BRAID_HOME") or "~/.braid") / "cache"
    return Path(f"/var/tmp/braid-{os.getuid()}") if network_file_system(usual) else usual


def torch_variables(assign: Assign) -> dict[str, str]:
    """The environment variables by which torch, and those who know torchrun, learn of a worker's place."""
    return {
        "RANK": str(assign.rank),
        "LOCAL_RANK": str(assign.local_rank),
        "WORLD_SIZE": str(assign.world_size),
        "LOCAL_WORLD_SIZE": str(assign.local_world_size),
        "MASTER_ADDR": assign.rendezvous.address,
        "MASTER_PORT": str(assign.rendezvous.port),
    }


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name)
    if text is None:
        raise ValueError(f"{name}: not set; workers are started by an agent, or with torchrun by `python -m launch.train`")
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r}: not a whole number; it is set by the agent, leave it alone")
    return int(text)
