"""What is checked and settled before a single worker starts: the dataset, and the checkpoint that a run begins from."""

import dataclasses
from collections.abc import Callable

from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table, load_manifest, rows_in_words
from data_pipeline.errors import DatasetExists, DatasetMissing, ShardCorrupt, ShardMissing
from data_pipeline.store.protocol import ObjectStore
from launch.errors import ConfigError
from launch.units import count
from orchestrator.config import RunConfig
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, NoCheckpoint
from orchestrator.records.configs import newest_config
from orchestrator.records.holds import hold_start
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.records.origin import find_start, start_store, unusable_start

DEFAULT_DATASET = "python-stdlib"


def prepare_dataset(config: RunConfig, store: ObjectStore, *, tell: Callable[[str], None]) -> None:
    """Checks that the run's dataset is there and fits, and tells how often it is read; the default one is built.

    Raises ConfigError, DataError, StoreError.
    """
    name = config.data.dataset
    try:
        manifest = load_manifest(store, name)
    except DatasetMissing:
        if name != DEFAULT_DATASET:
            raise
        tell(f"building dataset {name} from the Python standard library's source …")
        manifest = _build_default(store, name)
    check_dataset(config, manifest)
    if told := _check_objects(manifest, store, "data.dataset", may_lack=config.data.on_corrupt == "skip"):
        tell(f"warning: {told}")
    _refuse_what_are_no_tokens(manifest, store, "data.dataset")
    tell(data_line(config, manifest))
    check_held_out(config, store)


def check_held_out(config: RunConfig, store: ObjectStore) -> None:
    """Raises ConfigError where held-out text can't be looked at as the run wants it, DataError, StoreError."""
    if not config.eval.dataset:
        return
    manifest = load_manifest(store, config.eval.dataset, setting="eval.dataset")
    num_samples = manifest.num_samples(config.data.seq_len)
    if problem := config.eval.problem_with(vocab_size=manifest.vocab_size, num_samples=num_samples, config=config):
        raise ConfigError(problem)
    _check_objects(manifest, store, "eval.dataset", may_lack=False)
    _refuse_what_are_no_tokens(manifest, store, "eval.dataset")


def data_line(config: RunConfig, manifest: DatasetManifest) -> str:
    """How often a run will read its dataset, and what of it it never reads."""
    seq_len = config.data.seq_len
    wanted, reached = config.tokens_per_step * config.train.num_steps, manifest.num_samples(seq_len) * seq_len
    return f"data: {wanted:,} tokens are {wanted / reached:.3g} epochs of {manifest.name}: {rows_in_words(manifest, seq_len)}"


def dry_data_line(config: RunConfig, store: ObjectStore) -> str:
    """`data_line` of a run that may be submitted, with the same checks. Raises ConfigError, DataError, StoreError."""
    check_held_out(config, store)
    try:
        manifest = load_manifest(store, config.data.dataset)
    except DatasetMissing:
        built = (
            ", and is built when the run is submitted" if config.data.dataset == DEFAULT_DATASET else "; make it with `braid data build`"
        )
        return f"data: dataset {config.data.dataset} is not there yet{built}"
    check_dataset(config, manifest)
    told = _check_objects(manifest, store, "data.dataset", may_lack=config.data.on_corrupt == "skip")
    _refuse_what_are_no_tokens(manifest, store, "data.dataset")
    return data_line(config, manifest) + (f"; {told}" if told else "")


def _check_objects(manifest: DatasetManifest, store: ObjectStore, setting: str, *, may_lack: bool) -> str:
    """What is lacking, "" for nothing: one listing tells, of however many shards. Raises ShardMissing unless it may be."""
    from data_pipeline.dataset.inspect import lacking_objects  # costs numpy and tokenizers

    found = lacking_objects(manifest, store)
    if not found:
        return ""
    told = f"{setting}={manifest.name}: {count(len(found), 'object')} of it missing or of another size, the first: {found[0]}"
    if not may_lack:
        raise ShardMissing(told)
    return told


def _refuse_what_are_no_tokens(manifest: DatasetManifest, store: ObjectStore, setting: str) -> None:
    """A look at the beginning of the first shards. Raises ShardCorrupt."""
    from data_pipeline.dataset.inspect import odd_beginnings  # costs numpy and tokenizers

    if found := odd_beginnings(manifest, store):
        raise ShardCorrupt(f"{setting}={manifest.name}: {found[0]}")


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
    config: RunConfig, store: ObjectStore, *, find: Callable[[ObjectStore, RunConfig], CheckpointManifest]
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
    manifest = checked_start(config, store, find=find_start)
    assert manifest is not None, "there is a start.run"
    optimizer = "its optimizer's state too" if config.start.optimizer == "keep" else "the optimizer anew"
    return f"start: the weights of run {manifest.run}, step {manifest.step} ({manifest.origin}); {optimizer}"
