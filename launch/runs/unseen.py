"""Stopping a run whose cluster can't be seen: what is known of its processes, and what ends them all the same.

That a cluster does not answer says nothing of its workers: with a dead head they train on until Ray's own nodes give up.
"""

import time
from contextlib import suppress

from launch.config.storage import storage_hint
from launch.runs.record import RunRecord
from orchestrator.control.controller import stop_without_cluster
from orchestrator.control.events import StopRequested
from orchestrator.control.history import open_history
from orchestrator.control.state import Stage
from orchestrator.errors import Fenced
from orchestrator.identity import RunIdentity
from orchestrator.node.home import home_directory, run_directory
from orchestrator.node.processes import pids_with_environment, variables_of
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.keys import COMMITS, JOURNAL, compacted_directory, ledger_directory, log_key

LOCAL = "local-"
"""What the names of the local cluster's machines begin with."""


def stop_unseen(record: RunRecord, *, now: bool) -> str:
    """Ends the run in its journal where nothing of it can be running, and returns "".

    Else the wish goes into the journal, where a controller that lives finds it, and the attempt is fenced, so that its workers end at their
    next commit; returns what is known of them. Raises Superseded when a controller writes at the same moment.
    """
    history = open_history(record.run_store)
    known = what_may_run(record, time.time())
    if not known:
        stop_without_cluster(history, time.time())
        return ""
    history.append(StopRequested(at_s=time.time(), now=now))
    with suppress(Fenced):
        open_commit_log(record.run_store).fence(record.state.attempt + 1)
    return known


def what_may_run(record: RunRecord, now_s: float) -> str:
    """Why workers of the run may still be there; "" where it is known that none is."""
    if record.state.stage is Stage.WAITING:
        return ""
    if here := _processes_here(record.identity):
        ends = "which `braid cluster down` ends" if _is_all_local(record) else "which end by themselves once no controller speaks to them"
        return f"processes of it run on this machine ({len(here)}), {ends}"
    if _ran_here(record):
        return ""
    silent_s, enough_s = now_s - _last_sign_of_life_s(record), _silence_of_the_dead_s(record)
    if silent_s > enough_s:
        return ""
    again = f"`braid stop {record.name}{storage_hint(record.storage)}`"
    return f"its last sign of life in the store is {max(0.0, silent_s):,.0f} s old; {again} again after {enough_s:,.0f} s without one"


def _processes_here(run: RunIdentity) -> list[int]:
    home = str(home_directory())
    pids = pids_with_environment("BRAID_RUN_ID", run.id) if run.id else pids_with_environment("BRAID_RUN", run.name)
    return [pid for pid in pids if variables_of(pid).get("BRAID_HOME") == home]


def _ran_here(record: RunRecord) -> bool:
    """Every worker of the attempt was one of this machine's own cluster: its log is here."""
    directory, ranks = run_directory(record.identity), range(record.config.parallel.world_size)
    return _is_all_local(record) and all((directory / log_key(record.state.attempt, rank)).exists() for rank in ranks)


def _is_all_local(record: RunRecord) -> bool:
    return all(placed.machine.startswith(LOCAL) for placed in record.state.placement)


def _last_sign_of_life_s(record: RunRecord) -> float:
    """When the run last wrote: seconds since the epoch by the store's clock."""
    places = (JOURNAL, COMMITS, ledger_directory(record.state.attempt), compacted_directory(record.state.attempt))
    return max(info.modified_at_s for place in places for info in record.run_store.list(place))


def _silence_of_the_dead_s(record: RunRecord) -> float:
    """Longer than that no worker is silent: a controller would have ended it, and one that was to end has."""
    recovery = record.config.recovery
    return recovery.start_timeout_s if record.state.stage is Stage.STARTING else max(recovery.progress_timeout_s, recovery.stop_timeout_s)
