"""Where the digests of pages come from: the object that the manifest names, or one pass over each shard of an earlier dataset."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import DIGEST_BYTES, num_pages, page_digests
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.errors import CacheUnusable, DataError, ShardCorrupt, ShardMissing
from data_pipeline.read.fetch import fetch_shard
from data_pipeline.read.kept import kept
from data_pipeline.store.protocol import KeyMissing, ObjectStore

log = logging.getLogger(__name__)
_CHUNK_BYTES = 2**13
"""Digests of 32 MiB of tokens."""
_NUM_CHUNKS = 4096
Key = TypeVar("Key", bound=Hashable)


class PageIndex(Protocol):
    """Safe to use from any thread."""

    def digests(self, shard: int, pages: range) -> bytes:
        """The digests of some pages of a shard. Raises ShardMissing, ShardCorrupt, CacheUnusable, or what the store raises."""

    def forget(self, shard: int) -> None:
        """Has the digests of a shard read again: they, and not the pages, may be what is wrong."""

    def url(self, shard: int) -> str:
        """The object that the digests of a shard are in; "" where they were made of the shard."""


@dataclass(kw_only=True, slots=True)
class Recent(Generic[Key]):
    """The byte strings that were asked for last, by what names them."""

    make: Callable[[Key], bytes]
    size: int = _NUM_CHUNKS
    _found: "OrderedDict[Key, bytes]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, key: Key) -> bytes:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        data = self.make(key)
        with self._lock:
            self._found[key] = data
            while len(self._found) > self.size:
                self._found.popitem(last=False)
        return data

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def drop(self, key: Key) -> None:
        with self._lock:
            self._found.pop(key, None)


class StoredIndex:
    """The digests of all pages lie in one object, shard after shard, or in an object for each shard; they are read by the chunk."""

    def __init__(self, manifest: DatasetManifest, store: ObjectStore) -> None:
        self._manifest, self._store = manifest, store
        counts = (num_pages(shard.size_bytes) for shard in manifest.shards)
        self._first_page = tuple(accumulate(counts, initial=0))
        self._chunks: Recent[tuple[str, int, int]] = Recent(make=self._read)

    def digests(self, shard: int, pages: range) -> bytes:
        key, before, size = self._place(shard)
        start, end = before + pages.start * DIGEST_BYTES, before + pages.stop * DIGEST_BYTES
        first, last = start // _CHUNK_BYTES, (end - 1) // _CHUNK_BYTES
        data = self._chunks.get((key, size, first))
        if last > first:
            data += b"".join(self._chunks.get((key, size, chunk)) for chunk in range(first + 1, last + 1))
        offset = first * _CHUNK_BYTES
        return data[start - offset : end - offset]

    def forget(self, shard: int) -> None:
        key, before, size = self._place(shard)
        end = before + num_pages(self._manifest.shards[shard].size_bytes) * DIGEST_BYTES
        for chunk in range(before // _CHUNK_BYTES, end // _CHUNK_BYTES + 1):
            self._chunks.drop((key, size, chunk))

    def url(self, shard: int) -> str:
        return self._store.url(self._place(shard)[0])

    def _place(self, shard: int) -> tuple[str, int, int]:
        """The object that has a shard's digests, what is before them there, and the size of all in it, in bytes."""
        if self._manifest.pages is not None:
            return self._manifest.pages.key, self._first_page[shard] * DIGEST_BYTES, self._first_page[-1] * DIGEST_BYTES
        ref = self._manifest.shards[shard]
        return ref.pages_key, 0, num_pages(ref.size_bytes) * DIGEST_BYTES

    def _read(self, which: tuple[str, int, int]) -> bytes:
        key, size, chunk = which
        start = chunk * _CHUNK_BYTES
        wanted = min(_CHUNK_BYTES, size - start)
        url = self._store.url(key)
        try:
            data = self._store.get_range(key, start, wanted)
        except KeyMissing as error:
            raise ShardMissing(f"{url}: is in the manifest but not in the store; restore this object, or rebuild the dataset") from error
        if len(data) != wanted:
            raise ShardCorrupt(f"{url}: has {start + len(data)} bytes, the dataset needs {size}; restore it, or rebuild the dataset")
        return data


class MadeIndex:
    """For a dataset of an earlier version: each shard is read once per node, whole, and checked against the manifest's SHA-256."""

    def __init__(self, manifest: DatasetManifest, shards: ShardStore, directory: Path) -> None:
        self._manifest, self._shards, self._directory = manifest, shards, directory
        self._found: Recent[int] = Recent(make=self._read)
        self._broken: dict[int, DataError] = {}
        """Why shards can't be read: each is read twice, and then not again for every row of it."""

    def digests(self, shard: int, pages: range) -> bytes:
        if shard in self._broken:
            raise self._broken[shard]
        return self._found.get(shard)[pages.start * DIGEST_BYTES : pages.stop * DIGEST_BYTES]

    def forget(self, shard: int) -> None:
        self._path(shard).unlink(missing_ok=True)
        self._found.drop(shard)

    def url(self, shard: int) -> str:
        return ""

    def _read(self, shard: int) -> bytes:
        ref, path = self._manifest.shards[shard], self._path(shard)
        made: list[bytes] = []

        def make() -> bytes:
            made.append(self._made(shard))
            return made[-1]

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = kept(path, make)
            if len(data) != num_pages(ref.size_bytes) * DIGEST_BYTES:  # a power cut spoilt it
                path.unlink(missing_ok=True)
                data = kept(path, make)
        except OSError as error:
            if made:
                log.warning("%s: can't keep digests here (%s), this process alone has them; free space", path.parent, error.strerror)
                return made[-1]
            raise CacheUnusable(f"{path.parent}: can't keep digests here ({error.strerror}); free space, or set BRAID_CACHE") from error
        return data

    def _made(self, shard: int) -> bytes:
        ref = self._manifest.shards[shard]
        try:
            try:
                return b"".join(map(page_digests, fetch_shard(ref, self._shards)))
            except ShardCorrupt:
                log.warning("%s: what came is not what the dataset has, it is fetched again", self._shards.url(ref))
                return b"".join(map(page_digests, fetch_shard(ref, self._shards)))
        except (ShardMissing, ShardCorrupt) as error:
            self._broken[shard] = error
            raise

    def _path(self, shard: int) -> Path:
        return self._directory / f"{self._manifest.shards[shard].sha256}.pages"


def open_index(manifest: DatasetManifest, shards: ShardStore, directory: Path) -> PageIndex:
    """`directory` is where what had to be computed is kept."""
    if manifest.has_page_digests:
        return StoredIndex(manifest, shards.store)
    return MadeIndex(manifest, shards, directory)
