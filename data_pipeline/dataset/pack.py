"""Packs the documents of a dataset into rows of one length: shard → documents → windows of rows → an object, which `packing.py` describes.

A shard's object is named by what it was packed from, so that packing which was killed goes on behind the shards that are done: those whose
head has the digest that its name says. Once a packing is complete, doing it again mends what is missing or damaged.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from data_pipeline.dataset.documents import lengths_in
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef
from data_pipeline.dataset.packing import (
    ENTRY_BYTES,
    Counts,
    DocumentCount,
    PackedShard,
    Packing,
    digest_of_shards,
    head_from_bytes,
    packed_prefix,
    packing_key,
    packing_to_json,
    shard_to_bytes,
)
from data_pipeline.dataset.progress import Progress
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.shards import ShardStore, remedy
from data_pipeline.errors import DatasetTooSmall, ShardCorrupt
from data_pipeline.order.best_fit import VERSION, pack, window_rows
from data_pipeline.order.vectors import Ints
from data_pipeline.store.protocol import ObjectStore

NUM_SHARDS = 4
"""Shards that are packed at a time."""
_READ_BYTES = 8 * 2**20


def pack_dataset(*, shards: ShardStore, manifest: DatasetManifest, seq_len: int, progress: Progress) -> Packing:
    """`progress` is told bytes of shards. Raises DatasetTooSmall where there are no documents, ShardMissing, ShardCorrupt, StoreError."""
    if not manifest.num_tokens:
        raise DatasetTooSmall(f"dataset {manifest.name} holds no tokens; build it from more text")
    prefix = packed_prefix(manifest.name, seq_len)
    found = {info.key: info.size_bytes for info in shards.store.list(prefix)}
    kept = {} if packing_key(manifest.name, seq_len) in found else found
    packer = _Packer(shards=shards, manifest=manifest, seq_len=seq_len, kept=kept, progress=progress)
    with ThreadPoolExecutor(NUM_SHARDS, thread_name_prefix="pack") as threads:
        pending = [threads.submit(packer.pack, number) for number in range(len(manifest.shards))]
        try:
            done = [one.result() for one in pending]
        except BaseException:
            packer.is_over = True
            threads.shutdown(cancel_futures=True)
            raise
    _, documents, cut, padding = np.array([counts for _, counts in done]).sum(axis=0).tolist()
    packing = Packing(
        shards_digest=digest_of_shards(manifest),
        seq_len=seq_len,
        window_rows=window_rows(seq_len),
        num_documents=documents,
        num_cut=cut,
        num_padding=padding,
        shards=tuple(shard for shard, _ in done),
    )
    shards.store.put(packing_key(manifest.name, seq_len), packing_to_json(packing))
    return packing


class _Stopped(Exception):
    """Another shard's trouble ended the work."""


@dataclass(kw_only=True, slots=True)
class _Packer:
    """Packs the shards of one dataset, each on whatever thread."""

    shards: ShardStore
    manifest: DatasetManifest
    seq_len: int
    kept: dict[str, int]
    """Size in bytes of the objects that may be used again, by key."""
    progress: Progress
    is_over: bool = False
    _done: int = 0
    _lock: Lock = field(default_factory=Lock)

    def pack(self, number: int) -> tuple[PackedShard, Counts]:
        """The rows of a shard, whose object is on the store when this returns, and what its head counts."""
        ref = self.manifest.shards[number]
        name = f"{packed_prefix(self.manifest.name, self.seq_len)}{number:05d}-{self._input_of(ref)}-"
        for key in self.kept:
            if key.startswith(name) and (head := self._head_of(key)):
                self._advance(ref.size_bytes)
                return self._packed(key, head, self.kept[key])
        documents = DocumentCount()
        windows = pack(self._lengths(ref, documents), seq_len=self.seq_len, num_rows=window_rows(self.seq_len))
        data, head_bytes = shard_to_bytes(windows, documents, seq_len=self.seq_len)
        head = data[:head_bytes]
        key = f"{name}{hashlib.sha256(head).hexdigest()[:16]}.bin"
        self.shards.store.put(key, data)
        return self._packed(key, head, len(data))

    def _packed(self, key: str, head: bytes, size_bytes: int) -> tuple[PackedShard, Counts]:
        counts = head_from_bytes(head).counts
        return PackedShard(key=key, sha256=hashlib.sha256(head).hexdigest(), size_bytes=size_bytes, num_rows=counts[0]), counts

    def _input_of(self, ref: ShardRef) -> str:
        """What the rows of a shard depend on."""
        form = [
            VERSION,
            self.seq_len,
            window_rows(self.seq_len),
            ref.sha256,
            ref.documents.sha256 if ref.documents else self.manifest.eos_id,
        ]
        return hashlib.sha256(json.dumps(form).encode()).hexdigest()[:16]

    def _head_of(self, key: str) -> bytes:
        """The head of an object that is whole; b"" for another."""
        store, entry = self.shards.store, ENTRY_BYTES
        first = store.get_range(key, 0, entry)
        num_rows = int.from_bytes(first[:8], "little")
        head_bytes = entry * (1 + -(-num_rows // window_rows(self.seq_len)))
        if len(first) < entry or head_bytes > self.kept[key]:  # what it says of itself is not to be believed yet
            return b""
        head = store.get_range(key, 0, head_bytes)
        is_it = hashlib.sha256(head).hexdigest()[:16] == key.removesuffix(".bin").rpartition("-")[2]
        return head if is_it and head_from_bytes(head).size_bytes == self.kept[key] else b""

    def _lengths(self, ref: ShardRef, count: DocumentCount) -> Iterator[Ints]:
        """The tokens of its documents, some at a time, as they are counted."""
        width = file_dtype(self.manifest.dtype).itemsize
        for lengths in _recorded(ref, self.shards.store) if ref.documents else _found(ref, self.manifest, self.shards):
            count.num_documents += len(lengths)
            count.num_cut += int((lengths > self.seq_len + 1).sum())
            self._advance(int(lengths.sum()) * width)
            yield lengths

    def _advance(self, num_bytes: int) -> None:
        if self.is_over:
            raise _Stopped
        with self._lock:
            self._done += num_bytes
            self.progress(self._done, self.manifest.size_bytes)


def _recorded(ref: ShardRef, store: ObjectStore) -> Iterator[Ints]:
    """As the shard's table of documents says."""
    return (np.array(lengths, np.int64) for lengths in lengths_in(store, ref))


def _found(ref: ShardRef, manifest: DatasetManifest, shards: ShardStore) -> Iterator[Ints]:
    """As eos in the tokens says; the last document may be without. What was given counts only once there is no more, see `sha256`."""
    dtype, digest, begun = file_dtype(manifest.dtype), hashlib.sha256(), 0
    for start in range(0, ref.size_bytes, _READ_BYTES):
        data = shards.read(ref, start, _READ_BYTES)
        digest.update(data)
        tokens = np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
        ends = np.flatnonzero(tokens == manifest.eos_id) + 1
        if len(ends):
            yield np.diff(ends, prepend=-begun)
        begun = len(tokens) - int(ends[-1]) if len(ends) else begun + len(tokens)
    if begun:
        yield np.array([begun])
    if digest.hexdigest() != ref.sha256:
        raise ShardCorrupt(f"{shards.url(ref)}: its SHA-256 is not the manifest's; {remedy(ref)}")
