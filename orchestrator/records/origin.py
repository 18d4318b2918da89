"""What a run begins from: another run's checkpoint. No torch."""

from __future__ import annotations

from data_pipeline.store.protocol import ObjectStore
from model.config import ModelConfig
from model.parameters import parameter_shapes
from orchestrator.config import RunConfig
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, NoCheckpoint
from orchestrator.records.keys import store_of_run
from orchestrator.records.manifest import CheckpointManifest, find_checkpoint


def start_store(store: ObjectStore, config: RunConfig) -> ObjectStore:
    """The part of the storage root `store` in which the run that `config` starts from is."""
    return store_of_run(store, config.start.run)


def find_start(store: ObjectStore, config: RunConfig) -> CheckpointManifest:
    """The checkpoint that the run begins from, once it is known to fit; `store` is the storage root.

    Raises NoCheckpoint, CheckpointCorrupt, ConfigMismatch, DecodeError, StoreError.
    """
    who = f"start.run={config.start.run}"
    manifest = find_checkpoint(start_store(store, config), config.start.step, who=who)
    if config.start.optimizer == "keep" and manifest.training is None:
        raise ConfigMismatch(f"start.optimizer=keep: {who} holds weights only ({manifest.origin}); use start.optimizer=reset")
    check_same_shapes(manifest.model, config.model, theirs=f"{who}, step {manifest.step}", ours="this run's model")
    return manifest


def unusable_start(start: str, error: CheckpointCorrupt) -> NoCheckpoint:
    """What to tell a person where a file of the checkpoint that a run is to begin from is broken; `start` names it."""
    return NoCheckpoint(f"{start}: {error}; choose another checkpoint with start.step=N")


def check_same_shapes(model: ModelConfig, other: ModelConfig, *, theirs: str, ours: str) -> None:
    """Weights of `model` can serve `other`: the same parameters in the same shapes, whatever RoPE and window are. Raises ConfigMismatch."""
    there, here = parameter_shapes(model), parameter_shapes(other)
    for name in there | here:
        if there.get(name) != here.get(name):
            found, wanted = (f"{list(shapes[name])}" if name in shapes else "missing" for shapes in (there, here))
            raise ConfigMismatch(f"{theirs}: {name} is {found} there and {wanted} in {ours}; use models of the same shapes")
