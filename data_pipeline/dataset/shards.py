"""Where the tokens of shards are, and how they are read: the one place that knows of other roots, and of headers before tokens."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef
from data_pipeline.errors import ShardMissing
from data_pipeline.store.protocol import KeyMissing, ObjectStore, StoreError

Elsewhere = Callable[[str], ObjectStore]
"""Opens the store at a root that a shard names, such as `store.open.open_beside` makes it."""


def nowhere(root: str) -> ObjectStore:
    """For datasets whose shards are all under storage.root."""
    raise StoreError(f"{root}: shards are there, and only those under storage.root are read here")


@dataclass(frozen=True, slots=True)
class ShardStore:
    """Reads shards, wherever they are. Safe to use from any thread."""

    store: ObjectStore
    """At storage.root."""
    elsewhere: Elsewhere = nowhere

    def read(self, ref: ShardRef, start: int, length: int) -> bytes:
        """Bytes [start, start + length) of a shard's tokens, fewer where its file ends before. Raises ShardMissing, StoreError."""
        try:
            return self.at(ref.root).get_range(ref.key, ref.offset_bytes + start, min(length, ref.size_bytes - start))
        except KeyMissing as error:
            where = "" if ref.root else ", or fix storage.root"
            raise ShardMissing(f"{self.url(ref)}: is in the manifest but not in the store; {remedy(ref)}{where}") from error

    def url(self, ref: ShardRef) -> str:
        """Where the shard is, for messages."""
        return self.at(ref.root).url(ref.key)

    def sizes(self, refs: Iterable[ShardRef]) -> dict[tuple[str, str], int]:
        """Size in bytes, by root and key, of the files of shards that are there; others may be among them.

        One listing for each root; in a directory of somebody else's, which may hold much else, each file is looked at.
        """
        found: dict[tuple[str, str], int] = {}
        for root, keys in _listed_together(refs):
            if root.startswith("/"):
                found |= {(root, key): size for key in keys if (size := self._size_of(root, key)) is not None}
            else:
                prefix = os.path.commonprefix(keys)  # noqa: RUF071 — what a listing takes is the beginning of a string
                found |= {(root, info.key): info.size_bytes for info in self.at(root).list(prefix)}
        return found

    def _size_of(self, root: str, key: str) -> int | None:
        """That of a file in a directory. Raises what the store raises for one that can't be looked at, or is away."""
        with suppress(OSError):
            return Path(root, key).stat().st_size
        with suppress(KeyMissing):
            self.at(root).get_range(key, 0, 1)
        return None

    def at(self, root: str) -> ObjectStore:
        """The store that a shard's root is."""
        return self.elsewhere(root) if root else self.store


def remedy(ref: ShardRef) -> str:
    """What puts a shard right that is missing or damaged."""
    if ref.pages_key:
        return "restore this file, or register it again with `braid data register` under another name"
    return "rebuild the dataset with `braid data build`, or restore this object"


def lies_on_s3(manifest: DatasetManifest, storage: StorageConfig) -> bool:
    """Whether any of its shards is on S3, so that it is worth a cache."""
    return any(root.startswith("s3://") for root in {shard.root or storage.root for shard in manifest.shards})


def _listed_together(refs: Iterable[ShardRef]) -> Iterator[tuple[str, list[str]]]:
    """Roots and keys there: all of a root that a person has named, those of a directory under storage.root, where much else is."""
    found: dict[tuple[str, str], list[str]] = {}
    for ref in refs:
        found.setdefault((ref.root, "" if ref.root else ref.key.rpartition("/")[0]), []).append(ref.key)
    return ((root, keys) for (root, _), keys in found.items())
