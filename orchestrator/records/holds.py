"""Checkpoints that somebody is about to read: retention leaves them alone. No torch.

Who holds one may be in time or not. So retention marks a checkpoint as doomed before it looks for holds, and who holds one looks for the
mark afterwards: at least one of the two sees the other.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from data_pipeline.store.protocol import AccessDenied, ObjectStore, StoreError
from orchestrator.config import RunConfig
from orchestrator.records.journal import ended_at_s
from orchestrator.records.keys import DOOMED, HOLDS, JOURNAL, MANIFEST, checkpoint_directory, checkpoint_of, hold_key, hold_of, store_of_run
from orchestrator.records.manifest import CheckpointManifest, find_checkpoint
from orchestrator.records.origin import find_start, start_store

VOID_AFTER_S = 24 * 3600.0
"""How long a hold counts whose holder is no run, or has ended: a killed submission, a command that reads, a run that was stopped."""
DECIDED_WITHIN_S = 10.0
DECIDED_POLL_S = 0.1
log = logging.getLogger(__name__)


def hold_start(store: ObjectStore, config: RunConfig) -> CheckpointManifest:
    """The checkpoint that the run begins from, which stays until `release_start`; `store` is the storage root. Raises as `find_start`."""
    return _held(start_store(store, config), lambda: find_start(store, config), config.name)


def release_start(store: ObjectStore, config: RunConfig) -> None:
    """The run has a checkpoint of its own, and needs what it began from no more; may be repeated. Raises StoreError."""
    if config.start.run:
        _release(start_store(store, config), config.name)


@contextmanager
def held_while_read(run_store: ObjectStore, step: int, *, who: str) -> Iterator[CheckpointManifest]:
    """The checkpoint of a step, as `find_checkpoint` finds it, which stays as long as the context lasts."""
    holder = f"reader-{uuid.uuid4().hex}"
    try:
        yield _held(run_store, lambda: find_checkpoint(run_store, step, who=who), holder, goes_without=StoreError)
    finally:
        with suppress(StoreError):
            _release(run_store, holder)


def held_checkpoints(run_store: ObjectStore) -> set[tuple[int, int]]:
    """(step, attempt) of every checkpoint of a run that is held. Raises StoreError."""
    return {found[:2] for info in run_store.list(HOLDS) if (found := hold_of(info.key)) is not None}


def doom(run_store: ObjectStore, directory: str) -> bool:
    """Marks a checkpoint, given by its directory, as one that is being removed; False, and no mark, where somebody holds it."""
    found = checkpoint_of(directory)
    assert found is not None, "only checkpoints are removed like this"
    run_store.put(directory + DOOMED, b"")
    if found[1:] in held_checkpoints(run_store):
        run_store.delete(directory + DOOMED)
        return False
    return True


def remove_void_holds(store: ObjectStore, run: str, *, now_s: float) -> None:
    """Removes old holds on checkpoints of `run` whose holder never became a run, or has ended: a resume would hold again what is left.

    `store` is the storage root.
    """
    run_store = store_of_run(store, run)
    for info in run_store.list(HOLDS):
        found = hold_of(info.key)
        if found is not None and now_s - max(info.modified_at_s, _idle_since_s(store_of_run(store, found[2]))) > VOID_AFTER_S:
            run_store.delete(info.key)


def _idle_since_s(holder: ObjectStore) -> float:
    """Since when nothing of the run that holds needs it: of one that goes on, or waits, no time is."""
    if not holder.list(JOURNAL):
        return 0.0
    ended_s = ended_at_s(holder)
    return math.inf if ended_s is None else ended_s


def _held(
    run_store: ObjectStore, find: Callable[[], CheckpointManifest], holder: str, *, goes_without: type[StoreError] = AccessDenied
) -> CheckpointManifest:
    """What `find` finds, again where it was removed meanwhile: then there is a newer one, or `find` says that there is none.

    A holder that can't write there goes without: so it is where one may only read.
    """
    while True:
        manifest = find()
        hold = hold_key(manifest.step, manifest.attempt, holder)
        try:
            run_store.put(hold, b"")
        except goes_without as error:
            log.warning("run %s may remove its step %d before it is read: %s", manifest.run, manifest.step, error)
            return manifest
        if _stays(run_store, manifest):
            return manifest
        run_store.delete(hold)


def _stays(run_store: ObjectStore, manifest: CheckpointManifest) -> bool:
    """Whether a checkpoint that was just held is left. Where it is marked, its run has yet to see the hold, or goes on removing it.

    A mark that stays is of a run that was killed over it.
    """
    directory = checkpoint_directory(manifest.step, manifest.attempt)
    give_up_at_s = time.monotonic() + DECIDED_WITHIN_S
    while time.monotonic() < give_up_at_s:
        keys = {info.key for info in run_store.list(directory)}
        if directory + MANIFEST not in keys:
            return False
        if directory + DOOMED not in keys:
            return True
        time.sleep(DECIDED_POLL_S)
    return True


def _release(run_store: ObjectStore, holder: str) -> None:
    for key in (info.key for info in run_store.list(HOLDS)):
        if (found := hold_of(key)) is not None and found[2] == holder:
            run_store.delete(key)
