"""The checkpoint that a command names by run and step, and its weights."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectStore
from launch.runs.record import run_store_with_checkpoints
from orchestrator.records.holds import held_while_read
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.worker.weights import CheckpointWeights, Progress, open_weights

Stage = Callable[[str], Progress]
"""Begins a part of the work, given its name, and returns what takes its progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCheckpoint:
    """A committed checkpoint; as text RUN@STEP."""

    run_store: ObjectStore
    manifest: CheckpointManifest

    def __str__(self) -> str:
        return f"{self.manifest.run}@{self.manifest.step}"


@contextmanager
def checkpoint_at(storage: StorageConfig, run: str, step: int) -> Iterator[StoredCheckpoint]:
    """The checkpoint of this step, -1 for the newest; a run that trains on does not remove it before the context ends.

    Raises UserError, NoSuchRun, NoCheckpoint, CheckpointCorrupt, StoreError.
    """
    run_store = run_store_with_checkpoints(storage, run)
    with held_while_read(run_store, step, who=f"run {run}") as manifest:
        yield StoredCheckpoint(run_store=run_store, manifest=manifest)


def opened_weights(checkpoint: StoredCheckpoint, scratch: Path, stage: Stage) -> AbstractContextManager[CheckpointWeights]:
    """The weights of a checkpoint, tensor by tensor. Its files lie below `scratch` until the block ends."""
    return open_weights(checkpoint.run_store, checkpoint.manifest, scratch=scratch, progress=stage(f"reading {checkpoint}"))
