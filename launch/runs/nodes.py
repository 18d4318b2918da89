"""The machines that runs use: what runs and people have recorded of them, and which of them a cluster has now."""

import difflib
import shlex
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from launch.config.storage import storage_hint
from launch.errors import NoSuchMachine, NotReachable, WrongMoment
from launch.runs.connection import ClusterNode, reachable
from orchestrator import codec
from orchestrator.records.nodes import (
    Cleared,
    Cordoned,
    Finding,
    NodeEvent,
    NodeRegistry,
    Standing,
    author_of,
    by_machine,
    cordon_in,
    reason_of,
    since_cleared,
    standings,
)

NEWEST_FINDINGS = 3
"""Of each machine, those that are shown."""


def registry_of(storage: StorageConfig) -> NodeRegistry:
    return NodeRegistry(open_store(storage))


def nodes_of_cluster(address: str) -> list[ClusterNode] | None:
    """Every node that the cluster at `address` has or had, or the local one; None where no cluster answers."""
    try:
        with reachable(address) as connection:
            return connection.nodes() if connection else None
    except NotReachable:
        return None


def machines(events: Iterable[NodeEvent], cluster: Sequence[ClusterNode]) -> list[dict[str, Any]]:
    """One entry for each machine that the registry names or that is in the cluster now, by name; JSON-ready."""
    told = list(events)
    histories, known = by_machine(told), standings(told)
    alive = {node.machine for node in cluster if node.is_alive}
    names = sorted({*histories, *alive})
    return [_machine(name, histories.get(name, []), known.get(name, Standing()), in_cluster=name in alive) for name in names]


def _machine(name: str, history: Sequence[NodeEvent], standing: Standing, *, in_cluster: bool) -> dict[str, Any]:
    counted = since_cleared(history)
    findings = [event for event in counted if isinstance(event, Finding)]
    return {
        "machine": name,
        "state": "cordoned" if standing.cordoned else "strikes" if standing.strikes else "ok",
        "in_cluster": in_cluster,
        "cordoned": _cordon(history, standing) if standing.cordoned else None,
        "within_s": standing.within_s,
        "strikes": standing.strikes,
        "clears": standing.clears,
        "findings": [codec.to_plain(finding) for finding in reversed(findings[-NEWEST_FINDINGS:])],
    }


def _cordon(history: Sequence[NodeEvent], standing: Standing) -> dict[str, Any]:
    """Why, by whom and since when; what has GPUs of a cordoned machine is out of use since they were seen in it."""
    cordon = cordon_in(since_cleared(history))
    by, at_s = (author_of(cordon), cordon.at_s) if cordon is not None else ("its GPUs", history[-1].at_s)
    return {"reason": standing.cordoned, "by": by, "at_s": at_s}


def cordon(storage: StorageConfig, event: Cordoned, cluster: Sequence[ClusterNode] | None) -> None:
    """Takes a machine out of use; where a cluster answers, only one that it or the registry knows.

    Raises NoSuchMachine, WrongMoment, StoreError.
    """
    registry = registry_of(storage)
    histories = by_machine(registry.read())
    if cluster is not None:
        known = {*histories, *(node.machine for node in cluster)}
        _refuse_stranger(event.machine, known, "not in this cluster (another one: --address), and nothing is recorded of it", storage)
    before = cordon_in(since_cleared(histories.get(event.machine, [])))
    if before is not None:
        since = f"{datetime.fromtimestamp(before.at_s, UTC):%Y-%m-%d %H:%M} UTC"
        raise WrongMoment(
            f"machine {event.machine}: is cordoned already, by {author_of(before)} on {since} ({reason_of(before)}); "
            f"for another reason, `braid nodes clear {shlex.quote(event.machine)}{storage_hint(storage)}` first"
        )
    registry.record(event)


def clear(storage: StorageConfig, event: Cleared) -> None:
    """Gives a machine back to every run. Raises NoSuchMachine, WrongMoment, StoreError."""
    registry = registry_of(storage)
    events = registry.read()
    histories = by_machine(events)
    _refuse_stranger(event.machine, histories, "nothing was ever recorded of it", storage)
    if not since_cleared(histories[event.machine]):
        why = standings(events)[event.machine].cordoned
        what = f"{why}; clear that machine" if why else "nothing is held against it; there is nothing to clear"
        raise WrongMoment(f"machine {event.machine}: {what}")
    registry.record(event)


def _refuse_stranger(machine: str, known: Collection[str], what_is_wrong: str, storage: StorageConfig) -> None:
    if machine in known:
        return
    near = difflib.get_close_matches(machine, sorted(known))
    there = f"did you mean {' or '.join(near)}?" if near else f"`braid nodes{storage_hint(storage)}` lists those that are known"
    raise NoSuchMachine(f"machine {machine!r}: {what_is_wrong}; {there}")
