"""Encoded batches, in order → shards on the object store."""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from types import TracebackType
from typing import Self

import numpy as np

from data_pipeline.dataset.batches import EncodedBatch
from data_pipeline.dataset.documents import TableWriter, table_ref
from data_pipeline.dataset.manifest import ShardRef, dataset_prefix
from data_pipeline.dataset.pages import page_digests
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.dataset.unfinished import Finished, Records
from data_pipeline.sources.corpus import START, Corpus, Start
from data_pipeline.store.protocol import ObjectStore

SENT_AT_ONCE = 2
"""Shards that are digested and sent while the next one fills: what waits in memory."""


@dataclass(slots=True)
class ShardWriter:
    """Collects documents and writes a shard whenever there are enough tokens; a shard ends where a document ends.

    Shards are named by their number and content, so that one which an interrupted build left is not sent again. Use it as a context.
    """

    store: ObjectStore
    prefix: str
    """What the keys of the dataset begin with."""
    shard_size_tokens: int
    """A shard is written as soon as this many tokens wait."""
    existing: dict[str, int]
    """Size in bytes of every object that was under `prefix` when the build began, by key."""
    records: Records
    finished: list[Finished]
    """Shards that are complete on the store."""
    progress: BuildProgress
    """What was taken so far."""
    sending: deque[Future[Finished]] = field(default_factory=deque)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(SENT_AT_ONCE, thread_name_prefix="shards"))
    pending: BytesIO = field(default_factory=BytesIO)
    """Documents that wait for the next shard, as they will lie in it: it takes no more memory than the shard."""
    table: TableWriter = field(default_factory=TableWriter)
    """Of the documents that wait."""
    num_pending_tokens: int = 0
    next: Start = START
    """Behind the last document taken."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """What is being sent is, and is recorded: the next build goes on there."""
        self.threads.shutdown()

    def add(self, batch: EncodedBatch) -> None:
        """Takes some documents."""
        ends = np.cumsum(batch.lengths)
        begin, before = 0, 0
        while begin < len(ends):
            wanted = before + self.shard_size_tokens - self.num_pending_tokens
            stop = min(int(np.searchsorted(ends, wanted)) + 1, len(ends))
            self._take(batch, range(begin, stop), range(before, int(ends[stop - 1])))
            if self.num_pending_tokens >= self.shard_size_tokens:
                self._flush()
            begin, before = stop, int(ends[stop - 1])
        self._settle(SENT_AT_ONCE)

    def finish(self) -> list[Finished]:
        """Writes the documents that wait, if any, as a shard, and returns when all shards are on the store."""
        if self.num_pending_tokens:
            self._flush()
        self._settle(0)
        return self.finished

    def _take(self, batch: EncodedBatch, documents: range, tokens: range) -> None:
        self.table.add(batch, documents, self.num_pending_tokens)
        self.pending.write(batch.tokens[tokens.start : tokens.stop].data)
        self.num_pending_tokens += len(tokens)
        last = next(part for part in batch.parts if documents[-1] in part.documents)
        skip = last.skipped + documents.stop - last.documents.start
        self.next = Start(file=last.file, place=last.place, skip=skip)
        taken = slice(documents.start, documents.stop)
        self.progress = replace(
            self.progress,
            num_documents=self.progress.num_documents + len(documents),
            num_tokens=self.progress.num_tokens + len(tokens),
            num_unknown=self.progress.num_unknown + int(batch.unknown[taken].sum()),
            num_text_bytes=self.progress.num_text_bytes + int(batch.text_bytes[taken].sum()),
            read_bytes=last.read_bytes,
        )

    def _flush(self) -> None:
        self._settle(SENT_AT_ONCE - 1)
        data, table, num_tokens = (
            self.pending.getvalue(),
            self.table,
            self.num_pending_tokens,
        )  # the very bytes that were written, not a copy
        self.pending, self.table, self.num_pending_tokens = BytesIO(), TableWriter(), 0
        number = len(self.finished) + len(self.sending)
        done = replace(self.progress, num_shards=number + 1)
        self.sending.append(self.threads.submit(self._send, number, data, num_tokens, table, self.next, done))

    def _settle(self, most: int) -> None:
        """Waits until at most so many shards are being sent. Raises what kept one from it."""
        while self.sending and (len(self.sending) > most or self.sending[0].done()):
            self.finished.append(self.sending[0].result())
            self.sending.popleft()
        self.progress = replace(self.progress, num_shards=len(self.finished))

    def _send(self, number: int, data: bytes, num_tokens: int, documents: TableWriter, next: Start, done: BuildProgress) -> Finished:
        digest = hashlib.sha256(data).hexdigest()
        key = f"{self.prefix}shards/{number:05d}-{digest[:16]}.bin"
        self._put(key, data)
        table, head_bytes = documents.table()
        ref = table_ref(self.prefix, number, table, head_bytes)
        self._put(ref.key, table)
        shard = ShardRef(key=key, num_tokens=num_tokens, size_bytes=len(data), sha256=digest, documents=ref)
        finished = Finished(shard=shard, pages=page_digests(data), next=next, done=done)
        self.records.write(number, finished)
        return finished

    def _put(self, key: str, data: bytes) -> None:
        if self.existing.get(key) != len(data):
            self.store.put(key, data)


def build_shard_writer(*, store: ObjectStore, name: str, shard_size_tokens: int, records: Records, corpus: Corpus) -> ShardWriter:
    """A writer for the shards of dataset `name` that goes on where an interrupted build ended."""
    prefix = dataset_prefix(name)
    existing = {info.key: info.size_bytes for info in store.list(prefix)}
    finished = records.read(existing)
    done = finished[-1].done if finished else BuildProgress(num_documents=0, num_tokens=0, num_shards=0)
    return ShardWriter(
        store=store,
        prefix=prefix,
        shard_size_tokens=shard_size_tokens,
        existing=existing,
        records=records,
        finished=finished,
        progress=replace(done, size_bytes=corpus.size_bytes),
        next=finished[-1].next if finished else START,
    )
