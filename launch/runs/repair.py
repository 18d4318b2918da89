"""`braid repair`: goes on with a run whose numbered logs have lost entries. New entries are written; nothing is removed or overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyMissing, ObjectStore
from launch.errors import NoSuchRun, WrongMoment
from launch.runs.record import run_store_of
from launch.runs.unread import find_unread
from orchestrator.control.events import Repaired
from orchestrator.control.history import KINDS, history_over
from orchestrator.control.state import RunState, Stage, Terms, terms_of
from orchestrator.records.commit_log import Commit, CommitLog, fill_commits, last_fence, salvage_commits
from orchestrator.records.configs import newest_config, newest_version
from orchestrator.records.journal import Entry, Lost, Salvage, fill_journal, salvage_journal
from orchestrator.records.keys import CHECKPOINTS, commit_key, journal_key, store_of_nodes
from orchestrator.records.nodes import NODE_EVENT_KINDS
from orchestrator.records.retention import still_there

Tell = Callable[[str], None]


def repair(storage: StorageConfig, name: str, *, by: str, address: str, at_s: float, tell: Tell) -> bool:
    """Tells what is missing and what is still proved, and makes the run stoppable and resumable; False where nothing was to be done.

    Raises NoSuchRun, WrongMoment, NotReachable, StoreError, JournalBroken, Superseded, Fenced.
    """
    store = open_store(storage)
    run_store = run_store_of(store, name)
    journal, commits = salvage_journal(run_store, KINDS), salvage_commits(run_store)
    if not journal.last and not commits.entries:
        raise NoSuchRun(f"run {name!r}: nothing of it is in {storage.root}; choose another store with --storage")
    lost = [*_told(run_store, journal, journal_key), *_told(run_store, commits, commit_key)]
    has_mended = _repair_nodes(store_of_nodes(store), at_s=at_s, tell=tell)
    if not lost:
        tell(f"{name}: nothing is missing in its journal or its commit log")
        return has_mended
    with find_unread(storage, name, address) as handle:
        if handle is not None and handle.controls():
            raise WrongMoment(f"run {name}: its controller is at work and needs no repair; `braid stop {name}` first, then repair it")
    for line in lost:
        tell(f"{name}: {line}")
    log = fill_commits(run_store, commits)
    tell(f"{name}: {_proved(still_there(log.trusted(), {info.key for info in run_store.list(CHECKPOINTS)}))}")
    if journal.lost or journal.broken_summary:
        _repair_journal(run_store, journal, log, by=by, at_s=at_s)
    return True


def _told(run_store: ObjectStore, found: Any, key: Callable[[int], str]) -> Iterator[str]:
    yield from (f"{run_store.url(key(number))} is missing" for number in found.missing)
    yield from (f"{run_store.url(key(number))} can't be read" for number in found.unreadable)
    if summary := getattr(found, "broken_summary", ""):
        yield f"{run_store.url(summary)} can't be read"


def _proved(commits: Sequence[Commit]) -> str:
    """Of those that are still there."""
    steps = ", ".join(str(commit.step) for commit in commits[:5])
    return f"the commit log still proves the checkpoints of step {steps}" if steps else "the commit log proves no checkpoint"


def _repair_journal(run_store: ObjectStore, found: Salvage[Any], log: CommitLog, *, by: str, at_s: float) -> None:
    journal = fill_journal(run_store, KINDS, found, at_s=at_s)
    history = history_over(journal)
    history.append(_what_is_allowed_for(run_store, history.state, journal.entries, found.lost, log, by=by, at_s=at_s))
    if found.unreadable or found.broken_summary:
        journal.summarise()


def _repair_nodes(store: ObjectStore, *, at_s: float, tell: Tell) -> bool:
    """The registry of machines, which all runs of the store share."""
    found = salvage_journal(store, NODE_EVENT_KINDS)
    lost = list(_told(store, found, journal_key))
    if lost:
        journal = fill_journal(store, NODE_EVENT_KINDS, found, at_s=at_s)
        journal.append(Lost(at_s=at_s), {})
        if found.unreadable or found.broken_summary:
            journal.summarise()
    for line in lost:
        tell(f"machines: {line}; what it said of a machine is forgotten")
    return bool(lost)


def _what_is_allowed_for(
    run_store: ObjectStore, state: RunState, entries: Sequence[Entry[Any]], lost: tuple[int, ...], log: CommitLog, *, by: str, at_s: float
) -> Repaired:
    """Each lost entry may have been the beginning of another controller or attempt."""
    attempts = [state.attempt, last_fence(log.entries), *(getattr(entry.event, "attempt", 0) for entry in entries)]
    epochs = [state.epoch, *(getattr(entry.event, "epoch", 0) for entry in entries)]
    turned_at = max((entry.sequence for entry in entries if "stage" in (entry.decided or {})), default=0)
    trusted = log.trusted()
    return Repaired(
        at_s=at_s,
        by=by,
        lost=lost,
        terms=state.terms or _newest_terms(run_store),
        epoch=max(epochs) + len(lost),
        last_attempt=max(attempts) + len(lost),
        committed_step=trusted[0].step if trusted else 0,
        has_ended=state.stage is Stage.ENDED and turned_at > max(lost, default=0),
    )


def _newest_terms(run_store: ObjectStore) -> Terms:
    config = newest_config(run_store)
    if config is None:
        raise KeyMissing(f"{run_store.url('config')}: no configuration is left, so nothing can go on; restore it from a backup")
    return terms_of(config, newest_version(run_store))
