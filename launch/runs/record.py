"""A run as the object store knows it: what every command that reports can rely on, cluster or not.

runs/<name>/config/0001.json, journal/…      see docs; imported and averaged weights have a checkpoint only
run-names/<name>                             empty; so that listing runs does not list their checkpoints
"""

import difflib
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyExists, KeyMissing, ObjectStore
from launch.config.storage import storage_hint
from launch.errors import NoSuchRun, OnlyWeights, RunExists, UserError
from model.train.metrics import in_status
from orchestrator.config import RUN_NAME, RunConfig
from orchestrator.control.events import Event, RunSubmitted
from orchestrator.control.history import KINDS, fold, new_history
from orchestrator.control.state import RunState, Stage, terms_of
from orchestrator.control.status import build_status
from orchestrator.errors import Superseded
from orchestrator.health.conditions import Look, conditions, status_lines
from orchestrator.identity import RunIdentity
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.configs import add_config, read_config
from orchestrator.records.holds import release_start
from orchestrator.records.journal import Entry, read_journal
from orchestrator.records.keys import JOURNAL, NAMES, journal_key, name_key, store_of_run
from orchestrator.records.ledger import StepRecord, read_newest_record
from orchestrator.records.manifest import CheckpointManifest, read_manifest

ID_LENGTH = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run at the moment of reading."""

    name: str
    storage: StorageConfig
    store: ObjectStore
    """The whole storage root."""
    run_store: ObjectStore
    """The part of it that belongs to this run."""
    config: RunConfig
    state: RunState

    version: int
    """Number of the configuration that counts."""

    @property
    def identity(self) -> RunIdentity:
        return RunIdentity(name=self.name, id=self.state.run_id)

    @property
    def has_ended(self) -> bool:
        return self.state.stage is Stage.ENDED


def run_store_of(store: ObjectStore, name: str) -> ObjectStore:
    """The part of a store that belongs to a run. Raises UserError for a name that could reach outside."""
    if not RUN_NAME.fullmatch(name):
        raise UserError(f"name={name!r}: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit")
    return store_of_run(store, name)


def create_run(store: ObjectStore, config: RunConfig, *, at_s: float) -> RunIdentity:
    """Writes the configuration and the first journal entry, which says which version of it counts, and draws the id. Raises RunExists.

    A submission that died between the two does not hold the name: its configuration stays behind as an earlier version.
    """
    refuse_existing(store, config.name)
    run_store, run = run_store_of(store, config.name), RunIdentity(name=config.name, id=uuid.uuid4().hex[:ID_LENGTH])
    store.put(name_key(config.name), b"")
    try:
        version = add_config(run_store, config)
        new_history(run_store).append(RunSubmitted(at_s=at_s, terms=terms_of(config, version), run_id=run.id))
    except (KeyExists, Superseded) as error:
        raise _exists(config.name) from error
    return run


def withdraw_run(store: ObjectStore, config: RunConfig) -> None:
    """Gives the name of a run back that was submitted just now and to which nothing has happened since. Raises StoreError."""
    run_store = run_store_of(store, config.name)
    if [info.key for info in run_store.list(JOURNAL)] == [journal_key(1)]:
        run_store.delete(journal_key(1))
        store.delete(name_key(config.name))
        release_start(store, config)


def refuse_existing(store: ObjectStore, name: str) -> None:
    """Raises RunExists where the name is taken; called before any work is done, maybe in vain."""
    run_store = run_store_of(store, name)
    if was_submitted(run_store):
        raise _exists(name)
    if (weights := only_weights(run_store)) is not None:
        raise RunExists(f"name={name}: holds weights only ({weights.origin}); train from them with start.run={name} and another name=…")


def was_submitted(run_store: ObjectStore) -> bool:
    """Whether there is a journal, which begins with the submission. Raises StoreError."""
    return bool(run_store.list(JOURNAL))


def reserve_name(store: ObjectStore, name: str) -> ObjectStore:
    """The place for a run of nothing but weights. Raises RunExists."""
    run_store = run_store_of(store, name)
    if was_submitted(run_store) or open_commit_log(run_store).trusted():
        raise RunExists(f"run {name}: exists already; choose another name with --name")
    store.put(name_key(name), b"")
    return run_store


def only_weights(run_store: ObjectStore) -> CheckpointManifest | None:
    """What a run that was never submitted has instead: imported or averaged weights. None for any other."""
    trusted = open_commit_log(run_store).trusted()
    manifest = read_manifest(run_store, trusted[0]) if trusted else None
    return manifest if manifest is not None and manifest.training is None else None


def run_store_with_checkpoints(storage: StorageConfig, name: str) -> ObjectStore:
    """The part of the store of a run of any kind. Raises NoSuchRun where nothing of it is there."""
    store = open_store(storage)
    run_store = run_store_of(store, name)
    if not open_commit_log(run_store).entries and not was_submitted(run_store):
        raise NoSuchRun(_no_such_run(store, storage, name))
    return run_store


def _exists(name: str) -> RunExists:
    return RunExists(f"name={name}: this run exists already; choose another with name=…, or go on with `braid resume {name}`")


def read_run(storage: StorageConfig, name: str) -> RunRecord:
    """A run that was submitted. Raises NoSuchRun, OnlyWeights, StoreError, JournalBroken."""
    return read_run_and_journal(storage, name)[0]


def read_run_and_journal(storage: StorageConfig, name: str) -> tuple[RunRecord, list[Entry[Event]]]:
    """The same, and its journal."""
    store = open_store(storage)
    run_store = run_store_of(store, name)
    entries = read_journal(run_store, KINDS)
    state = fold(entries)
    if state.terms is None:
        if (weights := only_weights(run_store)) is not None:
            raise OnlyWeights(f"run {name}: holds weights only ({weights.origin}), no training; begin one from them with start.run={name}")
        raise NoSuchRun(_no_such_run(store, storage, name))
    config = read_config(run_store, state.terms.config_version)
    record = RunRecord(
        name=name, storage=storage, store=store, run_store=run_store, config=config, state=state, version=state.terms.config_version
    )
    return record, entries


def run_names(store: ObjectStore) -> list[str]:
    """Every run that was submitted to this store, in alphabetical order."""
    try:
        return [info.key.removeprefix(NAMES) for info in store.list(NAMES)]
    except KeyMissing:
        return []


def _no_such_run(store: ObjectStore, storage: StorageConfig, name: str) -> str:
    names = run_names(store)
    if name in names:
        there = "its name is there, its journal is not; was its folder moved or deleted? Put it back"
    elif near := difflib.get_close_matches(name, names):
        there = f"did you mean {' or '.join(near)}?"
    elif names:
        there = f"`braid runs{storage_hint(storage)}` lists those that are; or choose another store with --storage"
    else:
        is_away = "" if storage.is_s3 else ", or is its file system not mounted?"
        there = f"it holds none; choose another store with --storage{is_away}"
    return f"run {name!r}: not in {storage.root}; {there}"


def last_record(record: RunRecord) -> StepRecord | None:
    """The newest step in the ledger, without listing more of it than the stretch between two checkpoints."""
    since = max(0, record.state.committed_step - record.config.checkpoint.every_steps)
    for attempt in range(record.state.attempt, 0, -1):
        newest = read_newest_record(record.run_store, attempt, since_step=since)
        if newest is not None:
            return newest
    return None


def recorded_status(record: RunRecord, now_s: float) -> dict[str, Any]:
    """The status of a run from the store alone."""
    newest = last_record(record)
    look = Look(run=record.name, config=record.config, state=record.state, now_s=now_s, recorded=newest, step=newest.step if newest else 0)
    return build_status(record.name, record.config, record.state, None, now_s, newest, alerts=status_lines(conditions(look).holding))


def recorded_runs(storage: StorageConfig, now_s: float) -> list[dict[str, Any]]:
    """The status of every run, imported and averaged ones too; what a submission that died left of one is passed over."""
    found = []
    for name in run_names(open_store(storage)):
        with suppress(NoSuchRun):
            found.append(_recorded_run(storage, name, now_s))
    return found


def _recorded_run(storage: StorageConfig, name: str, now_s: float) -> dict[str, Any]:
    try:
        return recorded_status(read_run(storage, name), now_s)
    except OnlyWeights:
        return status_of_weights(run_store_of(open_store(storage), name))


def status_of_weights(run_store: ObjectStore) -> dict[str, Any]:
    """The status of a run of which `read_run` says OnlyWeights."""
    weights = only_weights(run_store)
    assert weights is not None, "it holds only weights"
    return weights_status(weights)


def weights_status(weights: CheckpointManifest) -> dict[str, Any]:
    """The status of a run that is nothing but weights, with the keys of any other."""
    nothing: dict[str, Any] = {
        "num_steps": 0,
        "tokens": 0,
        **in_status(None),
        "tokens_per_s": None,
        "skipped_updates": None,
        "data": None,
        "restarts": 0,
    }
    nobody: dict[str, Any] = {"live": False, "seen_s_ago": None, "num_workers": 0, "workers": [], "hosts": []}
    no_trouble: dict[str, Any] = {"num_incidents": 0, "incidents": [], "alerts": []}
    nowhere: dict[str, Any] = {"nodes": [], "spares": None, "standbys": None, "strikes": {}, "cordoned": {}}
    return {
        "run": weights.run,
        "state": "weights",
        "reason": weights.origin,
        "attempt": weights.attempt,
        "step": weights.step,
        "last_committed_step": weights.step,
        "rejected_checkpoints": [],
        **nothing,
        **nobody,
        **no_trouble,
        **nowhere,
    }
