"""The front door to object stores: from a config to a store."""

import dataclasses
import functools
from collections.abc import Callable

from data_pipeline.config import StorageConfig
from data_pipeline.paths import expanded
from data_pipeline.store.local import WHOLE, LocalStore
from data_pipeline.store.protocol import ObjectStore


def open_store(storage: StorageConfig, *, holds: str = "") -> ObjectStore:
    """The store at `storage.root`. Asks it nothing yet: a missing bucket or directory shows at the first operation.

    `holds`: what is there for certain, a directory of keys: a root without it is a place where the store is not mounted now.
    Raises HomeUnknown, and AccessDenied where an S3 store has no credentials by `storage.deadline_s`.

    An S3 store belongs to the process that opened it: open another one after a fork.
    """
    if storage.is_s3:
        from data_pipeline.store.s3 import open_s3  # here, so that a directory store costs no s3fs

        return open_s3(storage)
    return LocalStore(expanded(storage.root), deadline_s=storage.deadline_s, holds=holds)


def storage_at(root: str, storage: StorageConfig) -> StorageConfig:
    """Another root, reached as `storage` is. Raises ValueError where it is none."""
    is_same_server = root.startswith("s3:") and storage.is_s3
    return dataclasses.replace(storage, root=root, endpoint_url=storage.endpoint_url if is_same_server else "")


def open_beside(storage: StorageConfig) -> Callable[[str], ObjectStore]:
    """Opens stores at other roots, which are only read: each once, when it is first asked for. What is named in a directory stays there."""
    return functools.cache(lambda root: open_store(storage_at(root, storage), holds=WHOLE))
