"""The front door to object stores: from a config to a store."""

from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.store.local import LocalStore
from data_pipeline.store.protocol import ObjectStore


def open_store(storage: StorageConfig) -> ObjectStore:
    """The store at `storage.root`. Asks it nothing yet: a missing bucket or directory shows at the first operation.

    Raises AccessDenied where an S3 store has no credentials by `storage.deadline_s`.

    An S3 store belongs to the process that opened it: open another one after a fork.
    """
    if storage.is_s3:
        from data_pipeline.store.s3 import open_s3  # here, so that a directory store costs no s3fs

        return open_s3(storage)
    return LocalStore(Path(storage.root).expanduser().absolute(), deadline_s=storage.deadline_s)
