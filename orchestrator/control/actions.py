"""What the controller asks of the cluster; each action may be repeated. Values only. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StartWorkers:
    attempt: int
    nodes: tuple[str, ...]
    """Ranks 0 … workers_per_node − 1 on the first, and so on."""
    workers_per_node: int
    world_size: int
    config_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveAndStop:
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StopWorkers:
    attempt: int


Action = StartWorkers | SaveAndStop | StopWorkers
