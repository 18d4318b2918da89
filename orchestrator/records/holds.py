"""Checkpoints that other runs are to begin from: retention leaves them alone until those have one of their own. No torch."""

from __future__ import annotations

import logging

from data_pipeline.store.protocol import AccessDenied, ObjectStore
from orchestrator.config import RunConfig
from orchestrator.records.keys import HOLDS, hold_key, hold_of
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.records.origin import find_start, start_store

log = logging.getLogger(__name__)


def hold_start(store: ObjectStore, config: RunConfig) -> CheckpointManifest:
    """The checkpoint that the run begins from, which stays until `release_start`; `store` is the storage root. Raises as `find_start`."""
    manifest = find_start(store, config)
    try:
        start_store(store, config).put(hold_key(manifest.step, manifest.attempt, config.name), b"")
    except AccessDenied as error:
        log.warning("start.run=%s may remove its step %d before this run has a checkpoint: %s", config.start.run, manifest.step, error)
    return manifest


def release_start(store: ObjectStore, config: RunConfig) -> None:
    """The run has a checkpoint of its own, and needs what it began from no more; may be repeated. Raises StoreError."""
    if not config.start.run:
        return
    its_store = start_store(store, config)
    for key in (info.key for info in its_store.list(HOLDS)):
        if (found := hold_of(key)) is not None and found[2] == config.name:
            its_store.delete(key)


def held_checkpoints(run_store: ObjectStore) -> set[tuple[int, int]]:
    """(step, attempt) of every checkpoint of a run that another one is to begin from. Raises StoreError."""
    return {found[:2] for info in run_store.list(HOLDS) if (found := hold_of(info.key)) is not None}
