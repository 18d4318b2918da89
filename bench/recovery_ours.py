"""Our side of `bench.recovery`: a run on a local cluster, hurt while it trains, as `braid submit` and a power cut would have it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.recovery_times import Recovery, last_step, our_recovery
from launch.runs.connection import stop_local
from launch.runs.lifecycle import submit
from launch.runs.record import read_run
from launch.runs.view import RunView, open_view
from launch.status import ENDED, Status
from orchestrator.config import RunConfig
from orchestrator.control.history import KINDS
from orchestrator.node.home import run_directory
from orchestrator.node.processes import send
from orchestrator.ray_backend.local.cluster import kill_node, local_nodes
from orchestrator.records.journal import read_journal
from orchestrator.records.keys import log_key

LOOKS_EVERY_S = 0.2
STEADY_STEPS = 10
"""That a run finishes past a checkpoint of its newest attempt before it is hurt."""
STANDBYS_WITHIN_S = 60.0
Hurt = Callable[[Path, Status], None]


def kill_worker(home: Path, status: Status) -> None:
    """A rank away from the head node, where there is one."""
    send(_victim(home, status)["pid"], signal.SIGKILL)


def cut_power(home: Path, status: Status) -> None:
    """Of a rank's whole node: the head node would take the cluster with it."""
    kill_node(home, _victim(home, status)["node"])


def measure_ours(config: RunConfig, home: Path, *hurts: Hurt, patience_s: float, tell: Callable[[str], None]) -> list[Recovery]:
    """After one hurt after the other, in one run. Everything ends with it."""
    try:
        submit(config, address="", tell=tell)
        with open_view(config.storage, config.name, "") as view:
            return [_recovery(view, config, home, hurt, patience_s, tell) for hurt in hurts]
    finally:
        stop_local()


def _victim(home: Path, status: Status) -> dict[str, Any]:
    head = next(node.node for node in local_nodes(home) if node.is_head)
    workers = sorted(status["workers"], key=lambda worker: (worker["node"] == head, worker["rank"]))
    victim: dict[str, Any] = workers[0]
    return victim


def _recovery(view: RunView, config: RunConfig, home: Path, hurt: Hurt, patience_s: float, tell: Callable[[str], None]) -> Recovery:
    steady = _when(view, lambda status: is_steady(status, config), "a checkpoint, and steps after it", patience_s)
    with suppress(SystemExit):
        steady = _when(view, lambda status: is_steady(status, config) and all_stand_by(status, config), "", STANDBYS_WITHIN_S)
    tell(f"{hurt.__name__} after step {steady['step']}, {steady['standbys']} processes stand by")
    attempt, killed_s = steady["attempt"], time.time()
    hurt(home, steady)
    reached = 0

    def is_beyond(status: Status) -> bool:
        nonlocal reached
        reached = max(reached, last_step(_log(view, attempt)))
        return status["attempt"] > attempt and last_step(_log(view, status["attempt"])) > reached

    after = _when(view, is_beyond, f"the step after {steady['step']}", patience_s)
    events = [entry.event for entry in read_journal(view.record.run_store, KINDS)]
    return our_recovery(killed_s, events, _log(view, attempt), _log(view, after["attempt"]))


def is_steady(status: Status, config: RunConfig) -> bool:
    """A controller says so that sees every worker, not what is recorded of the run."""
    has_recovered = all(incident["recovered_after_s"] is not None for incident in status["incidents"])
    resumed = max((incident["resumed_from_step"] or 0 for incident in status["incidents"]), default=0)
    committed: int = status["last_committed_step"]
    is_training = status["state"] == "running" and status["live"] and status["num_workers"] == config.parallel.world_size
    return bool(is_training and has_recovered and status["step"] >= committed + STEADY_STEPS and committed > resumed)


def all_stand_by(status: Status, config: RunConfig) -> bool:
    """One process for each worker, and for each that a spare has a place for."""
    per_node = config.parallel.world_size // config.num_nodes
    return bool(status["standbys"] >= (config.num_nodes + config.recovery.spares) * per_node)


def _when(view: RunView, condition: Callable[[Status], bool], what: str, patience_s: float) -> Status:
    give_up_at_s = time.monotonic() + patience_s
    while not condition(status := view.status()):
        if status["state"] in ENDED or time.monotonic() > give_up_at_s:
            raise SystemExit(f"run {view.record.name} is {status['state']} ({status['reason']}); it was waited in vain for {what}")
        time.sleep(LOOKS_EVERY_S)
    return status


def _log(view: RunView, attempt: int) -> list[str]:
    """The first rank's. Every node of the cluster is this machine."""
    path = run_directory(read_run(view.record.storage, view.record.name).identity) / log_key(attempt, 0)
    return path.read_text(errors="replace").splitlines() if path.exists() else []
