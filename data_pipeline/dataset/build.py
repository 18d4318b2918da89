"""Raw text → shards → manifest.

A build can be interrupted anywhere: shards are named by their content, and only the manifest, written last, makes a dataset.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, manifest_key, manifest_to_json
from data_pipeline.dataset.tokenizer import eos_id_of, train_tokenizer, vocab_size_of
from data_pipeline.errors import CorpusInvalid, DatasetExists
from data_pipeline.sources.corpus import stdlib_corpus
from data_pipeline.store.protocol import KeyExists, ObjectStore

SHARD_SIZE_TOKENS = 2**26
DEFAULT_VOCAB_SIZE = 4096
"""Of the tokenizer that is trained for the default corpus."""
_BATCH_SIZE_CHARACTERS = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildProgress:
    num_documents: int
    num_tokens: int
    num_shards: int


ProgressCallback = Callable[[BuildProgress], None]


@dataclass(slots=True)
class ShardWriter:
    """Collects tokens and writes a shard whenever there are enough. Shards which an earlier build left are not sent again."""

    store: ObjectStore
    prefix: str
    dtype: str
    shard_size_tokens: int
    existing: dict[str, int]
    """Size in bytes of every object under the prefix."""
    shards: list[ShardRef] = field(default_factory=list)
    pending: list[list[int]] = field(default_factory=list)
    num_pending_tokens: int = 0
    num_documents: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards) + self.num_pending_tokens

    def add(self, document: list[int]) -> None:
        self.pending.append(document)
        self.num_pending_tokens += len(document)
        self.num_documents += 1
        if self.num_pending_tokens >= self.shard_size_tokens:
            self.flush()

    def flush(self) -> None:
        if not self.pending:
            return
        file_dtype = np.dtype(self.dtype).newbyteorder("<")
        data = np.concatenate([np.asarray(document, dtype=file_dtype) for document in self.pending]).tobytes()
        digest = hashlib.sha256(data).hexdigest()
        key = f"{self.prefix}{len(self.shards):05d}-{digest[:16]}.bin"
        if self.existing.get(key) != len(data):
            self.store.put(key, data)
        self.shards.append(ShardRef(key=key, num_tokens=self.num_pending_tokens, size_bytes=len(data), sha256=digest))
        self.pending.clear()
        self.num_pending_tokens = 0


def build_shard_writer(*, store: ObjectStore, name: str, vocab_size: int, shard_size_tokens: int) -> ShardWriter:
    prefix = f"{_prefix_of(name)}shards/"
    return ShardWriter(
        store=store,
        prefix=prefix,
        dtype="uint16" if vocab_size <= 2**16 else "uint32",
        shard_size_tokens=shard_size_tokens,
        existing={info.key: info.size_bytes for info in store.list(prefix)},
    )


def build_dataset(
    *,
    store: ObjectStore,
    name: str,
    documents: Iterable[str],
    tokenizer: Tokenizer,
    eos_token: str = "",
    shard_size_tokens: int = SHARD_SIZE_TOKENS,
    progress: ProgressCallback,
) -> DatasetManifest:
    """Tokenize `documents`, each followed by eos, into shards of about `shard_size_tokens`, and write the manifest.

    Raises DatasetExists, CorpusInvalid, TokenizerInvalid, or what the store raises.
    """
    refuse_existing(store, name)
    eos_id = eos_id_of(tokenizer, eos_token)
    vocab_size = vocab_size_of(tokenizer)
    writer = build_shard_writer(store=store, name=name, vocab_size=vocab_size, shard_size_tokens=shard_size_tokens)
    for document in _tokenized(documents, tokenizer):
        writer.add([*document, eos_id])
        progress(BuildProgress(num_documents=writer.num_documents, num_tokens=writer.num_tokens, num_shards=len(writer.shards)))
    writer.flush()
    if not writer.shards:
        raise CorpusInvalid(f"dataset {name}: the corpus holds no text; give another one")
    manifest = DatasetManifest(
        name=name,
        dtype=writer.dtype,
        eos_id=eos_id,
        vocab_size=vocab_size,
        tokenizer_key=_put_tokenizer(store, name, tokenizer),
        shards=tuple(writer.shards),
    )
    _commit(store, manifest)
    return manifest


def build_default_dataset(*, store: ObjectStore, name: str, progress: ProgressCallback) -> DatasetManifest:
    """The standard library's own source, with a tokenizer trained on it: needs nothing but Python, and takes seconds."""
    refuse_existing(store, name)
    corpus = stdlib_corpus()
    return build_dataset(store=store, name=name, documents=corpus, tokenizer=train_tokenizer(corpus, DEFAULT_VOCAB_SIZE), progress=progress)


def dataset_exists(store: ObjectStore, name: str) -> bool:
    key = manifest_key(name)
    return any(info.key == key for info in store.list(key))


def refuse_existing(store: ObjectStore, name: str) -> None:
    """Raises DatasetExists before work is done in vain."""
    if dataset_exists(store, name):
        raise _exists(store, name)


def _prefix_of(name: str) -> str:
    return manifest_key(name).removesuffix("manifest.json")


def _exists(store: ObjectStore, name: str) -> DatasetExists:
    return DatasetExists(f"{store.url(manifest_key(name))}: this dataset exists already; choose another NAME, or delete this object first")


def _tokenized(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Text that looks like a special token stays text: eos only ever ends a document."""
    tokenizer.encode_special_tokens = True
    for batch in _batches(documents):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Groups large enough to keep every core busy, small enough for memory."""
    batch: list[str] = []
    num_characters = 0
    for document in documents:
        batch.append(document)
        num_characters += len(document)
        if num_characters >= _BATCH_SIZE_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _put_tokenizer(store: ObjectStore, name: str, tokenizer: Tokenizer) -> str:
    data = tokenizer.to_str().encode()
    key = f"{_prefix_of(name)}tokenizer-{hashlib.sha256(data).hexdigest()[:16]}.json"
    store.put(key, data)
    return key


def _commit(store: ObjectStore, manifest: DatasetManifest) -> None:
    """Create the manifest; another build of the very same dataset may have been first."""
    key, data = manifest_key(manifest.name), manifest_to_json(manifest)
    try:
        store.create(key, data)
    except KeyExists as error:
        if store.get(key) != data:
            raise _exists(store, manifest.name) from error
