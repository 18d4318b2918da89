"""What is checked and settled before a single worker starts: the dataset, and the checkpoint that a run begins from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from data_pipeline.config import DATASET
from data_pipeline.dataset.manifest import DatasetManifest, load_manifest, rows_in_words
from data_pipeline.dataset.mixture import exhaustion, left_unread, load_manifests, never_read, problem_with
from data_pipeline.errors import DatasetExists, DatasetMissing, ShardCorrupt, ShardMissing
from data_pipeline.store.open import open_beside
from data_pipeline.store.protocol import ObjectStore
from launch.errors import ConfigError
from launch.units import count
from orchestrator.config import RunConfig
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, NoCheckpoint
from orchestrator.records.configs import newest_config
from orchestrator.records.holds import hold_start
from orchestrator.records.manifest import CheckpointManifest
from orchestrator.records.origin import find_start, start_store, unusable_start

if TYPE_CHECKING:
    from data_pipeline.dataset.packing import Packings
    from data_pipeline.order.plan import Plan


def prepare_dataset(config: RunConfig, store: ObjectStore, *, tell: Callable[[str], None]) -> None:
    """Checks that the run's datasets are there and fit, and tells how often they are read; the default one is built.

    Raises ConfigError, DataError, StoreError.
    """
    try:
        manifests = load_manifests(store, config.data)
    except DatasetMissing:
        if config.data.datasets != (DATASET,):
            raise
        tell(f"building dataset {DATASET} from the Python standard library's source …")
        manifests = (_build_default(store, DATASET),)
    for line in _checked(config, manifests, store):
        tell(line)
    check_held_out(config, store)


def check_held_out(config: RunConfig, store: ObjectStore) -> None:
    """Raises ConfigError where held-out text can't be looked at as the run wants it, DataError, StoreError."""
    if not config.eval.dataset:
        return
    if problem := config.eval.problem_with_training_on(config):
        raise ConfigError(problem)
    manifest = load_manifest(store, config.eval.dataset, setting="eval.dataset")
    num_samples = manifest.num_samples(config.data.seq_len)
    if problem := config.eval.problem_with(vocab_size=manifest.vocab_size, num_samples=num_samples, config=config):
        raise ConfigError(problem)
    _check_objects(manifest, config, store, "eval.dataset", may_lack=False)
    _refuse_what_are_no_tokens(manifest, config, store, "eval.dataset")


def dry_data_lines(config: RunConfig, store: ObjectStore) -> list[str]:
    """What `prepare_dataset` would tell of a run that may be submitted, with the same checks. Raises ConfigError, DataError, StoreError."""
    check_held_out(config, store)
    try:
        manifests = load_manifests(store, config.data)
    except DatasetMissing as error:
        if config.data.datasets == (DATASET,):
            return [f"data: dataset {DATASET} is not there yet, and is built when the run is submitted"]
        return [f"data: {error}"]
    return _checked(config, manifests, store)


def _check_objects(manifest: DatasetManifest, config: RunConfig, store: ObjectStore, setting: str, *, may_lack: bool) -> str:
    """What is lacking, "" for nothing: one listing tells, of however many shards. Raises ShardMissing unless it may be."""
    from data_pipeline.dataset.inspect import lacking_objects  # costs numpy and tokenizers

    found = lacking_objects(manifest, store, open_beside(config.storage))
    if not found:
        return ""
    told = f"{setting}={manifest.name}: {count(len(found), 'object')} of it missing or of another size, the first: {found[0]}"
    if not may_lack:
        raise ShardMissing(told)
    return told


def _checked(config: RunConfig, manifests: Sequence[DatasetManifest], store: ObjectStore) -> list[str]:
    """How often a run will read each of its datasets, and what of it it never reads. Raises ConfigError, DataError, StoreError."""
    from data_pipeline.dataset.packing import load_packings, refuse_lacking_tables  # costs numpy

    packings, lines = load_packings(store, manifests, config.data), []
    plan = planned(config, manifests, packings)
    refuse_lacking_tables(packings, store)
    setting = "data.sources" if config.data.sources else "data.dataset"
    for manifest in manifests:
        if told := _check_objects(manifest, config, store, setting, may_lack=config.data.on_corrupt == "skip"):
            lines.append(f"warning: {told}")
        _refuse_what_are_no_tokens(manifest, config, store, setting)
    longest = max(stage.seq_len for stage in config.stages)
    consumed = plan.consumed(config.train.num_steps)
    for source, (manifest, one) in enumerate(zip(manifests, consumed, strict=True)):
        packing = packings.get((manifest.name, longest))
        epochs = one.tokens / (plan.table(source, longest).num_samples * longest)
        words = packing.in_words() if packing else rows_in_words(manifest, longest)
        lines.append(f"data: {one.tokens:,} tokens are {epochs:.3g} epochs of {manifest.name}: {words}")
    return lines + [f"warning: {line}" for _, line in left_unread(plan, config.train.num_steps)]


def planned(config: RunConfig, manifests: Sequence[DatasetManifest], packings: "Packings") -> "Plan":
    """The order of a run that can be trained. Raises ConfigError where it can't, DataError."""
    from data_pipeline.dataset.plan import plan_of  # costs numpy

    if problem := problem_with(manifests, vocab_size=config.model.vocab_size):
        raise ConfigError(problem)
    plan = plan_of(manifests, config.data, batch_rows=config.train.batch_rows, packings=packings)
    if problem := exhaustion(plan, config.train.num_steps) or never_read(plan, config.train.num_steps):
        raise ConfigError(problem)
    return plan


def _refuse_what_are_no_tokens(manifest: DatasetManifest, config: RunConfig, store: ObjectStore, setting: str) -> None:
    """A look at the beginning of the first shards. Raises ShardCorrupt."""
    from data_pipeline.dataset.inspect import odd_beginnings  # costs numpy and tokenizers

    if found := odd_beginnings(manifest, store, open_beside(config.storage)):
        raise ShardCorrupt(f"{setting}={manifest.name}: {found[0]}")


def _build_default(store: ObjectStore, name: str) -> DatasetManifest:
    from data_pipeline.dataset.build import build_default_dataset  # costs numpy and tokenizers

    try:
        return build_default_dataset(store=store, name=name, progress=lambda _: None)
    except DatasetExists:  # another submission built it meanwhile
        return load_manifest(store, name)


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


def start_lines(config: RunConfig, store: ObjectStore) -> list[str]:
    """Where a run with start.run begins, in words. Raises ConfigError where it can't begin there, StoreError."""
    manifest = checked_start(config, store, find=find_start)
    assert manifest is not None, "there is a start.run"
    optimizer = "its optimizer's state too" if config.start.optimizer == "keep" else "the optimizer anew"
    return [f"start: the weights of run {manifest.run}, step {manifest.step} ({manifest.origin}); {optimizer}"]
