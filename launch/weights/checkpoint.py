"""The checkpoint that a command names by run and step, and its weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import ObjectStore
from launch.errors import UserError
from launch.runs.record import run_store_with_checkpoints
from model.weights.source import TensorInfo, WeightSource
from orchestrator.records.holds import held_while_read
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.worker.training_state import not_finite_in
from orchestrator.worker.weights import Progress, open_weights

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


@contextmanager
def opened_weights(checkpoint: StoredCheckpoint, scratch: Path, stage: Stage) -> Iterator[WeightSource]:
    """The weights of a checkpoint, tensor by tensor. Its files lie below `scratch` until the block ends.

    Raises UserError at the first tensor that is not finite: nothing is to be made of such weights.
    """
    progress = stage(f"reading {checkpoint}")
    with open_weights(checkpoint.run_store, checkpoint.manifest, scratch=scratch, progress=progress) as weights:
        yield _Finite(checkpoint, weights)


class _Finite:
    """The weights of a checkpoint, each looked through as it is read."""

    def __init__(self, checkpoint: StoredCheckpoint, weights: WeightSource) -> None:
        self._checkpoint, self._weights = checkpoint, weights

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._weights.tensors

    def read(self, name: str) -> Tensor:
        tensor = self._weights.read(name)
        if not_finite_in({name: tensor}):
            remedy = f"use an earlier step of `braid checkpoints {self._checkpoint.manifest.run}`"
            raise UserError(f"{self._checkpoint}: {name} is not finite, training had diverged; {remedy}")
        return tensor
