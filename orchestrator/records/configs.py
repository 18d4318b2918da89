"""The configurations of a run, in numbered versions that are written once. No torch."""

from __future__ import annotations

from data_pipeline.store.protocol import ObjectStore
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.records.keys import CONFIGS, config_key, config_version


def read_config(run_store: ObjectStore, version: int) -> RunConfig:
    """A version of the run's configuration. Raises KeyMissing, codec.DecodeError."""
    key = config_key(version)
    return codec.from_json(RunConfig, run_store.get(key), key)


def newest_config(run_store: ObjectStore) -> RunConfig | None:
    """What a run was last started with, under a controller or under torchrun; None where it never was. Raises codec.DecodeError."""
    version = newest_version(run_store)
    return read_config(run_store, version) if version else None


def add_config(run_store: ObjectStore, config: RunConfig) -> int:
    """Writes a further version of a run's configuration and returns its number. Raises KeyExists when somebody else did at this moment."""
    version = newest_version(run_store) + 1
    run_store.create(config_key(version), codec.to_json(config))
    return version


def is_newest_config(run_store: ObjectStore, config: RunConfig) -> bool:
    """Whether the run's newest configuration is this one, byte for byte."""
    version = newest_version(run_store)
    return version > 0 and run_store.get(config_key(version)) == codec.to_json(config)


def newest_version(run_store: ObjectStore) -> int:
    """The highest version of the run's configuration; 0 where it has none."""
    return max((version for info in run_store.list(CONFIGS) if (version := config_version(info.key)) is not None), default=0)
