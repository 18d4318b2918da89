"""Raw documents → shards → manifest.

    batches of documents (`sources/corpus.py`) → tokens, anywhere (`batches.py`) → shards, in order (`shard_writer.py`) → manifest

A build may be interrupted anywhere: shards are named by their content, those that are finished are recorded (`unfinished.py`), and only
the manifest, written last, makes a dataset.
"""

import hashlib
from collections.abc import Generator
from contextlib import closing

from tokenizers import Tokenizer

from data_pipeline.dataset.batches import Encode, EncodedBatch, Encoding, encode_here
from data_pipeline.dataset.manifest import DatasetManifest, PageTable, dataset_prefix, manifest_key, manifest_to_json
from data_pipeline.dataset.progress import ProgressCallback
from data_pipeline.dataset.shard_format import smallest_dtype
from data_pipeline.dataset.shard_writer import ShardWriter, build_shard_writer
from data_pipeline.dataset.tokenizer import eos_id_of, train_tokenizer, vocab_size_of
from data_pipeline.dataset.unfinished import Finished, records_of, records_prefix
from data_pipeline.errors import CorpusInvalid, DatasetExists
from data_pipeline.sources.corpus import Corpus
from data_pipeline.sources.stdlib import stdlib_corpus
from data_pipeline.store.protocol import KeyExists, ObjectStore

SHARD_SIZE_TOKENS = 2**26
DEFAULT_VOCAB_SIZE = 4096
"""Size of the tokenizer that is trained for the default corpus, in tokens."""


def build_dataset(
    *,
    store: ObjectStore,
    name: str,
    corpus: Corpus,
    tokenizer: Tokenizer,
    tokenizer_file: bytes = b"",
    eos_token: str = "",
    shard_size_tokens: int = SHARD_SIZE_TOKENS,
    encode: Encode = encode_here,
    progress: ProgressCallback,
) -> DatasetManifest:
    """Tokenizes the documents of `corpus`, each followed by eos, into shards of about `shard_size_tokens`, and writes the manifest.

    The file that the tokenizer was read from, if it was, is kept as it is. What comes out does not depend on what encodes.
    Raises DatasetExists, CorpusInvalid, TokenizerInvalid, BuildFailed, or what the store raises.
    """
    refuse_existing(store, name)
    vocab_size = vocab_size_of(tokenizer)
    encoding = Encoding(tokenizer=tokenizer.to_str(), eos_id=eos_id_of(tokenizer, eos_token), dtype=smallest_dtype(vocab_size))
    records = records_of(store=store, name=name, corpus=corpus, encoding=encoding, shard_size_tokens=shard_size_tokens)
    with build_shard_writer(store=store, name=name, shard_size_tokens=shard_size_tokens, records=records, corpus=corpus) as writer:
        shards = _tokenized(writer, encode(encoding, corpus.batches(writer.next)), progress)
    if not shards:
        raise CorpusInvalid(f"dataset {name}: the corpus holds no text; give another one")
    manifest = DatasetManifest(
        name=name,
        dtype=encoding.dtype,
        eos_id=encoding.eos_id,
        vocab_size=vocab_size,
        tokenizer_key=put_tokenizer(store, name, tokenizer_file or encoding.tokenizer.encode()),
        shards=tuple(finished.shard for finished in shards),
        num_text_bytes=writer.progress.num_text_bytes,
        pages=put_pages(store, name, b"".join(finished.pages for finished in shards)),
    )
    made = create_manifest(store, manifest)
    records.remove(made.shards)
    return made


def _tokenized(writer: ShardWriter, encoded: Generator[EncodedBatch, None, None], progress: ProgressCallback) -> list[Finished]:
    """All shards, once they are on the store."""
    progress(writer.progress)
    with closing(encoded):
        for batch in encoded:
            writer.add(batch)
            progress(writer.progress)
    shards = writer.finish()
    progress(writer.progress)
    return shards


def build_default_dataset(*, store: ObjectStore, name: str, progress: ProgressCallback) -> DatasetManifest:
    """The standard library's own source, with a tokenizer trained on it: needs nothing but Python, and takes seconds."""
    refuse_existing(store, name)
    corpus = stdlib_corpus()
    return build_dataset(store=store, name=name, corpus=corpus, tokenizer=train_tokenizer(corpus, DEFAULT_VOCAB_SIZE), progress=progress)


def dataset_exists(store: ObjectStore, name: str) -> bool:
    """Whether there is a complete dataset `name`."""
    key = manifest_key(name)
    return any(info.key == key for info in store.list(key))


def refuse_existing(store: ObjectStore, name: str) -> None:
    """Raises DatasetExists where there is a dataset `name`, before work is done in vain.

    Not where its build was killed before it had put away its records: the same command comes to the same end.
    """
    if dataset_exists(store, name) and not store.list(records_prefix(name)):
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
