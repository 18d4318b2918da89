"""`braid average`: a run of the mean of checkpoints' weights."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from launch.errors import UserError
from launch.runs.record import reserve_name
from launch.weights.checkpoint import Stage, StoredCheckpoint, checkpoint_at, opened_weights
from launch.weights.companions import companions_of
from model.config import ModelConfig
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.worker.weights import AverageWeights, Watched, write_weights


def average(
    storage: StorageConfig, sources: Sequence[tuple[str, int]], name: str, *, scratch: Path, stage: Stage, tell: Callable[[str], None]
) -> CheckpointManifest:
    """Makes the run `name` of the mean of checkpoints, given as (run, step), -1 for the newest step.

    Raises UserError, NoSuchRun, NoCheckpoint, CheckpointCorrupt, RunExists, Fenced, DataError, StoreError.
    """
    with ExitStack() as exits:
        found = [exits.enter_context(checkpoint_at(storage, run, step)) for run, step in sources]
        for number, other in enumerate(found):
            _refuse_other_model(found[0], other)
            if str(other) in map(str, found[:number]):
                raise UserError(f"{other}: is among the checkpoints twice; name each once")
        store = open_store(storage)
        companions = companions_of(found[0], store, tell)
        run_store = reserve_name(store, name)
        mean = AverageWeights([exits.enter_context(opened_weights(one, scratch, stage)) for one in found])
        return write_weights(
            run_store,
            Watched(mean, stage("averaging")),
            run=name,
            model=found[0].manifest.model,
            origin=f"average of {', '.join(map(str, found))}",
            companions=companions,
        )


def _refuse_other_model(first: StoredCheckpoint, other: StoredCheckpoint) -> None:
    for field in fields(ModelConfig):
        theirs, its = getattr(first.manifest.model, field.name), getattr(other.manifest.model, field.name)
        if theirs != its:
            raise UserError(f"{other}: model.{field.name} is {its} there and {theirs} in {first}; average checkpoints of one model")
