"""Which run it is. Names are unique within a store only: what is outside of one is called by name and id.

Pure, apart from `is_same_store`, which follows links.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from data_pipeline.config import StorageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """As text, NAME@ID: what actors, processes and directories on a node are called by."""

    name: str
    id: str = ""
    """Drawn at random when the run was submitted; empty for a run of an earlier version, which is called by its name alone."""

    def __str__(self) -> str:
        return f"{self.name}@{self.id}" if self.id else self.name


def is_same_store(one: StorageConfig, other: StorageConfig) -> bool:
    """Whether both name one place, as far as names tell."""
    return _place(one) == _place(other)


def _place(storage: StorageConfig) -> tuple[str, ...]:
    return (storage.endpoint_url, *storage.bucket_and_prefix()) if storage.is_s3 else (os.path.realpath(storage.root),)
