"""Which store a command speaks of, and how another command finds it."""

import dataclasses
import shlex

from data_pipeline.config import StorageConfig
from data_pipeline.paths import HomeUnknown, expanded
from launch.errors import ConfigError

DEFAULT_ROOT = "~/.braid/store"
COMMAND_DEADLINE_S = 25.0
"""How long a command tries one operation: a person waits. Runs have more patience, `storage.deadline_s`."""
LOOK_DEADLINE_S = 10.0
"""How long a command that only reports tries one operation: a person waits, and nothing is lost by giving up."""


def storage_of(root: str, endpoint_url: str = "") -> StorageConfig:
    """The store named on the command line. Raises ConfigError."""
    try:
        return absolute_root(StorageConfig(root=root, endpoint_url=endpoint_url, deadline_s=COMMAND_DEADLINE_S))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def storage_to_look_at(root: str, endpoint_url: str = "") -> StorageConfig:
    """The store for a command that only reports, which gives up early where it does not answer. Raises ConfigError."""
    return dataclasses.replace(storage_of(root, endpoint_url), deadline_s=LOOK_DEADLINE_S)


def as_command(storage: StorageConfig) -> StorageConfig:
    """A run's store, for a command that writes to it."""
    return dataclasses.replace(storage, deadline_s=min(COMMAND_DEADLINE_S, storage.deadline_s))


def absolute_root(storage: StorageConfig) -> StorageConfig:
    """A directory as an absolute path, since workers run in other directories than the person who names it."""
    if storage.is_s3:
        return storage
    return dataclasses.replace(storage, root=str(expanded(storage.root)))


def storage_hint(storage: StorageConfig) -> str:
    """The options that let another command find this store, as one types them in a shell; empty where it is the default."""
    root = "" if _is_default(storage) else f" --storage {shlex.quote(storage.root)}"
    return root + (f" --endpoint-url {shlex.quote(storage.endpoint_url)}" if storage.endpoint_url else "")


def _is_default(storage: StorageConfig) -> bool:
    try:
        return storage.root == storage_of(DEFAULT_ROOT).root
    except HomeUnknown:
        return False
