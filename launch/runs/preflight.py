"""What is checked and settled before a single worker starts: the dataset, and the checkpoint that a run begins from."""

import dataclasses
from collections.abc import Callable

from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table, load_manifest
from data_pipeline.errors import DatasetExists, DatasetMissing
from data_pipeline.store.protocol import ObjectStore
from launch.errors import ConfigError
from orchestrator.config import RunConfig
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, NoCheckpoint
from orchestrator.records.configs import newest_config
from orchestrator.records.holds import hold_start
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.records.origin import find_start, start_store, unusable_start

DEFAULT_DATASET = "python-stdlib"


def prepare_dataset(config: RunConfig, store: ObjectStore, *, tell: Callable[[str], None]) -> None:
    """Checks that the run's dataset is there and fits; the default one is built. Raises ConfigError, DataError, StoreError."""
    name = config.data.dataset
    try:
        manifest = load_manifest(store, name)
    except DatasetMissing:
        if name != DEFAULT_DATASET:
            raise
        tell(f"building dataset {name} from the Python standard library's source …")
        manifest = _build_default(store, name)
    check_dataset(config, manifest)


def _build_default(store: ObjectStore, name: str) -> DatasetManifest:
    from data_pipeline.dataset.build import build_default_dataset  # costs numpy and tokenizers

    try:
        return build_default_dataset(store=store, name=name, progress=lambda _: None)
    except DatasetExists:  # another submission built it meanwhile
        return load_manifest(store, name)


def check_dataset(config: RunConfig, manifest: DatasetManifest) -> None:
    """Raises ConfigError where the model has no row for some token, DatasetTooSmall where not one sample fits."""
    if manifest.vocab_size > config.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size}: dataset {manifest.name} has {manifest.vocab_size} tokens; "
            f"use at least {manifest.vocab_size}, or another data.dataset"
        )
    build_sample_table(manifest, config.data.seq_len)


def settle_start(config: RunConfig, store: ObjectStore) -> RunConfig:
    """The run's configuration with start.step as a number, where it says -1 for the newest; that checkpoint is held from now on.

    Raises ConfigError, StoreError.
    """
    manifest = checked_start(config, store, find=hold_start)
    return config if manifest is None else dataclasses.replace(config, start=dataclasses.replace(config.start, step=manifest.step))


def checked_start(
    config: RunConfig, store: ObjectStore, find: Callable[[ObjectStore, RunConfig], CheckpointManifest] = find_start
) -> CheckpointManifest | None:
    """The checkpoint that the run begins from; None where it begins anew. Raises ConfigError where it can't begin from it, StoreError."""
    if not config.start.run:
        return None
    try:
        manifest = find(store, config)
    except CheckpointCorrupt as error:
        raise ConfigError(str(unusable_start(f"start.run={config.start.run}", error))) from error
    except (ConfigMismatch, NoCheckpoint) as error:
        raise ConfigError(str(error)) from error
    if config.start.optimizer == "keep":
        _refuse_other_optimizer(config, newest_config(start_store(store, config)))
    return manifest


def _refuse_other_optimizer(config: RunConfig, theirs: RunConfig | None) -> None:
    if theirs is not None and theirs.optimizer.name != config.optimizer.name:
        raise ConfigError(
            f"start.optimizer=keep: start.run={config.start.run} was trained with optimizer.name={theirs.optimizer.name}, "
            f"and this run has {config.optimizer.name}; use start.optimizer=reset, or the same optimizer.name"
        )


def start_line(config: RunConfig, store: ObjectStore) -> str:
    """Where a run with start.run begins, in words. Raises ConfigError where it can't begin there, StoreError."""
    manifest = checked_start(config, store)
    assert manifest is not None, "there is a start.run"
    optimizer = "its optimizer's state too" if config.start.optimizer == "keep" else "the optimizer anew"
    return f"start: the weights of run {manifest.run}, step {manifest.step} ({manifest.origin}); {optimizer}"
