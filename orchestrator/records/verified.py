"""Files of a checkpoint, read and verified side by side.

What one thread can digest is slower than a disk, and memory that nobody had before is slower than both: so several files are under way at
once, each thread keeps its memory from file to file, and a file is digested while its rest is still read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from data_pipeline.store.protocol import ObjectStore
from orchestrator.errors import CheckpointCorrupt
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.manifest import CheckpointManifest, FileDigest, read_verified, require_digest

NUM_HANDS = min(8, os.cpu_count() or 1)
"""Files at once."""
NUM_FETCHES = 4
"""Pieces of each that are fetched at once."""
PIECE_BYTES = 2**24
IN_MEMORY_BYTES = 2**33
"""Of the files that are under way, unless a single one is larger."""


class VerifiedFiles:
    """The files that a manifest names, as they were written, and no others."""

    def __init__(self, store: ObjectStore, manifest: CheckpointManifest) -> None:
        self._store = store
        self._directory = checkpoint_directory(manifest.step, manifest.attempt)
        self._digests = {file.name: file for file in manifest.files}

    def read(self, name: str) -> bytes:
        """Raises CheckpointCorrupt, StoreError."""
        return read_verified(self._store, self._directory + name, self._named(name).sha256)

    def read_each(self, names: Collection[str], use: Callable[[str, memoryview], None]) -> None:
        """Calls `use` with each file once it is verified, from several threads; what it is given is good for as long as it takes.

        Raises CheckpointCorrupt, StoreError, and what `use` raises.
        """
        files = sorted(map(self._named, names), key=lambda file: file.size_bytes, reverse=True)
        num_hands = num_at_once([file.size_bytes for file in files], most=NUM_HANDS, memory_bytes=IN_MEMORY_BYTES)
        own = threading.local()

        def read(file: FileDigest) -> None:
            if not hasattr(own, "memory"):
                own.memory = new_memory(file.size_bytes)  # the largest come first: enough for all that follow
            data = own.memory[: file.size_bytes]
            key = self._directory + file.name
            require_digest(self._store, key, file.sha256, lambda: _read_into(data, self._store, key, fetchers))
            use(file.name, data)

        with ThreadPoolExecutor(num_hands * NUM_FETCHES) as fetchers, ThreadPoolExecutor(num_hands) as hands:
            list(hands.map(read, files))

    def _named(self, name: str) -> FileDigest:
        if name not in self._digests:
            key = self._directory + name
            raise CheckpointCorrupt(f"{self._store.url(key)} is not in the checkpoint's manifest", key=key)
        return self._digests[name]


def num_at_once(sizes: Sequence[int], *, most: int, memory_bytes: int) -> int:
    """How many of the files, which are given the largest first, fit into the memory; at least one."""
    return max(1, min(most, sum(sum(sizes[: number + 1]) <= memory_bytes for number in range(len(sizes)))))


def _read_into(data: memoryview, store: ObjectStore, key: str, fetchers: ThreadPoolExecutor) -> str:
    """The digest of the object, which is then in `data` if it is of its size."""

    def fetch(start: int) -> memoryview:
        piece = store.get_range(key, start, PIECE_BYTES)  # what the object has beyond `data` shows in its digest
        into = data[start : start + len(piece)]
        into[:] = piece[: len(into)]
        return into if len(into) == len(piece) else memoryview(piece)

    digest = hashlib.sha256()
    for piece in fetchers.map(fetch, range(0, len(data) + 1, PIECE_BYTES)):
        digest.update(piece)
    return digest.hexdigest()


def new_memory(size_bytes: int) -> memoryview:
    """In large pages where the kernel has them: it takes less time to give them."""
    memory = mmap.mmap(-1, max(1, size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
