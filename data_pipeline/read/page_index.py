"""Where the digests of pages come from: the object that the manifest names, or one pass over each shard of an earlier dataset."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Protocol

from data_pipeline.dataset.manifest import DatasetManifest, PageTable
from data_pipeline.dataset.pages import DIGEST_BYTES, num_pages, page_digests
from data_pipeline.errors import CacheUnusable, DataError, ShardCorrupt, ShardMissing
from data_pipeline.read.fetch import fetch_shard
from data_pipeline.read.kept import kept
from data_pipeline.store.protocol import KeyMissing, ObjectStore

log = logging.getLogger(__name__)
_CHUNK_BYTES = 2**16
"""Digests of 256 MiB of tokens."""
_NUM_CHUNKS = 64


class PageIndex(Protocol):
    """Safe to use from any thread."""

    def digests(self, shard: int, pages: range) -> bytes:
        """The digests of some pages of a shard. Raises ShardMissing, ShardCorrupt, CacheUnusable, or what the store raises."""

    def forget(self, shard: int) -> None:
        """Has the digests of a shard read again: they, and not the pages, may be what is wrong."""


@dataclass(kw_only=True, slots=True)
class Recent:
    """The byte strings that were asked for last, by number."""

    make: Callable[[int], bytes]
    size: int = _NUM_CHUNKS
    _found: "OrderedDict[int, bytes]" = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, number: int) -> bytes:
        with self._lock:
            if number in self._found:
                self._found.move_to_end(number)
                return self._found[number]
        data = self.make(number)
        with self._lock:
            self._found[number] = data
            while len(self._found) > self.size:
                self._found.popitem(last=False)
        return data

    def drop(self, number: int) -> None:
        with self._lock:
            self._found.pop(number, None)


class StoredIndex:
    """The digests of all pages of all shards lie in one object, in order; it is read by the chunk."""

    def __init__(self, manifest: DatasetManifest, pages: PageTable, store: ObjectStore) -> None:
        self._key, self._store = pages.key, store
        counts = (num_pages(shard.size_bytes) for shard in manifest.shards)
        self._first_page = tuple(accumulate(counts, initial=0))
        self._size = self._first_page[-1] * DIGEST_BYTES
        self._chunks = Recent(make=self._read)

    def digests(self, shard: int, pages: range) -> bytes:
        first = self._first_page[shard]
        start, end = (first + pages.start) * DIGEST_BYTES, (first + pages.stop) * DIGEST_BYTES
        chunks = range(start // _CHUNK_BYTES, -(-end // _CHUNK_BYTES))
        data = b"".join(map(self._chunks.get, chunks))
        offset = chunks.start * _CHUNK_BYTES
        return data[start - offset : end - offset]

    def forget(self, shard: int) -> None:
        first, end = (self._first_page[number] * DIGEST_BYTES // _CHUNK_BYTES for number in (shard, shard + 1))
        for chunk in range(first, end + 1):
            self._chunks.drop(chunk)

    def _read(self, chunk: int) -> bytes:
        start = chunk * _CHUNK_BYTES
        wanted = min(_CHUNK_BYTES, self._size - start)
        url = self._store.url(self._key)
        try:
            data = self._store.get_range(self._key, start, wanted)
        except KeyMissing as error:
            raise ShardMissing(f"{url}: is in the manifest but not in the store; restore this object, or rebuild the dataset") from error
        if len(data) != wanted:
            raise ShardCorrupt(f"{url}: has {start + len(data)} bytes, the dataset needs {self._size}; restore it, or rebuild the dataset")
        return data


class MadeIndex:
    """For a dataset of an earlier version: each shard is read once per node, whole, and checked against the manifest's SHA-256."""

    def __init__(self, manifest: DatasetManifest, store: ObjectStore, directory: Path) -> None:
        self._manifest, self._store, self._directory = manifest, store, directory
        self._shards = Recent(make=self._read)
        self._broken: dict[int, DataError] = {}
        """Why shards can't be read: each is read twice, and then not again for every row of it."""

    def digests(self, shard: int, pages: range) -> bytes:
        if shard in self._broken:
            raise self._broken[shard]
        return self._shards.get(shard)[pages.start * DIGEST_BYTES : pages.stop * DIGEST_BYTES]

    def forget(self, shard: int) -> None:
        self._path(shard).unlink(missing_ok=True)
        self._shards.drop(shard)

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
                return page_digests(b"".join(fetch_shard(ref, self._store)))
            except ShardCorrupt:
                log.warning("%s: what came is not what the dataset has, it is fetched again", self._store.url(ref.key))
                return page_digests(b"".join(fetch_shard(ref, self._store)))
        except (ShardMissing, ShardCorrupt) as error:
            self._broken[shard] = error
            raise

    def _path(self, shard: int) -> Path:
        return self._directory / f"{self._manifest.shards[shard].sha256}.pages"


def open_index(manifest: DatasetManifest, store: ObjectStore, directory: Path) -> PageIndex:
    """`directory` is where what had to be computed is kept."""
    if manifest.pages is None:
        return MadeIndex(manifest, store, directory)
    return StoredIndex(manifest, manifest.pages, store)
