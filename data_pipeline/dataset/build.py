"""Raw documents → shards → manifest.

A build may be interrupted anywhere: shards are named by their content, and only the manifest, written last, makes a dataset.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from data_pipeline.dataset.encoder import build_encoder
from data_pipeline.dataset.manifest import DatasetManifest, PageTable, dataset_prefix, manifest_key, manifest_to_json
from data_pipeline.dataset.progress import ProgressCallback
from data_pipeline.dataset.shard_writer import build_shard_writer
from data_pipeline.dataset.tokenizer import eos_id_of, train_tokenizer, vocab_size_of
from data_pipeline.errors import CorpusInvalid, DatasetExists
from data_pipeline.sources.stdlib import stdlib_corpus
from data_pipeline.store.protocol import KeyExists, ObjectStore

SHARD_SIZE_TOKENS = 2**26
DEFAULT_VOCAB_SIZE = 4096
"""Size of the tokenizer that is trained for the default corpus, in tokens."""


def build_dataset(
    *,
    store: ObjectStore,
    name: str,
    documents: Iterable[str],
    tokenizer: Tokenizer,
    tokenizer_file: bytes = b"",
    eos_token: str = "",
    shard_size_tokens: int = SHARD_SIZE_TOKENS,
    progress: ProgressCallback,
) -> DatasetManifest:
    """Tokenizes `documents`, each followed by eos, into shards of about `shard_size_tokens`, and writes the manifest.

    The file that the tokenizer was read from, if it was, is kept as it is.
    Raises DatasetExists, CorpusInvalid, TokenizerInvalid, or what the store raises.
    """
    refuse_existing(store, name)
    eos_id = eos_id_of(tokenizer, eos_token)
    vocab_size = vocab_size_of(tokenizer)
    writer = build_shard_writer(store=store, name=name, vocab_size=vocab_size, shard_size_tokens=shard_size_tokens)
    text = Counted(documents)
    encoder = build_encoder(tokenizer, eos_id)
    for tokens in encoder.encode(text):
        writer.add(np.append(tokens, np.uint32(eos_id)))
        progress(replace(writer.progress, num_unknown=encoder.num_unknown))
    writer.flush()
    if not writer.shards:
        raise CorpusInvalid(f"dataset {name}: the corpus holds no text; give another one")
    progress(replace(writer.progress, num_unknown=encoder.num_unknown))
    manifest = DatasetManifest(
        name=name,
        dtype=writer.dtype,
        eos_id=eos_id,
        vocab_size=vocab_size,
        tokenizer_key=put_tokenizer(store, name, tokenizer_file or tokenizer.to_str().encode()),
        shards=tuple(writer.shards),
        num_text_bytes=text.num_bytes,
        pages=put_pages(store, name, bytes(writer.page_digests)),
    )
    return create_manifest(store, manifest)


class Counted:
    """Passes documents on and counts the bytes of their text in UTF-8."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._documents = documents
        self.num_bytes = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            self.num_bytes += len(document.encode(errors="surrogatepass"))
            yield document


def build_default_dataset(*, store: ObjectStore, name: str, progress: ProgressCallback) -> DatasetManifest:
    """The standard library's own source, with a tokenizer trained on it: needs nothing but Python, and takes seconds."""
    refuse_existing(store, name)
    corpus = stdlib_corpus()
    return build_dataset(store=store, name=name, documents=corpus, tokenizer=train_tokenizer(corpus, DEFAULT_VOCAB_SIZE), progress=progress)


def dataset_exists(store: ObjectStore, name: str) -> bool:
    """Whether there is a complete dataset `name`."""
    key = manifest_key(name)
    return any(info.key == key for info in store.list(key))


def refuse_existing(store: ObjectStore, name: str) -> None:
    """Raises DatasetExists where there is a dataset `name`, before work is done in vain."""
    if dataset_exists(store, name):
        raise _exists(store, name)


def _exists(store: ObjectStore, name: str) -> DatasetExists:
    return DatasetExists(f"{store.url(manifest_key(name))}: this dataset exists already; choose another NAME, or delete this object first")


def put_tokenizer(store: ObjectStore, name: str, content: bytes) -> str:
    """Writes a dataset's tokenizer, and returns its key."""
    key = f"{dataset_prefix(name)}tokenizer-{hashlib.sha256(content).hexdigest()[:16]}.json"
    store.put(key, content)
    return key


def put_pages(store: ObjectStore, name: str, digests: bytes) -> PageTable:
    """Writes the digests of all pages of a dataset."""
    sha256 = hashlib.sha256(digests).hexdigest()
    key = f"{dataset_prefix(name)}pages-{sha256[:16]}.bin"
    store.put(key, digests)
    return PageTable(key=key, sha256=sha256)


def create_manifest(store: ObjectStore, manifest: DatasetManifest) -> DatasetManifest:
    """Writes the manifest, which makes the dataset; who made the very same one may have been first. Raises DatasetExists."""
    key, data = manifest_key(manifest.name), manifest_to_json(manifest)
    try:
        store.create(key, data)
    except KeyExists as error:
        if store.get(key) != data:
            raise _exists(store, manifest.name) from error
    return manifest
