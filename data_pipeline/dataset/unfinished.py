"""What a build that was interrupted has finished: a small record beside each shard, until the manifest is written.

    datasets/NAME/building/DIGEST/00000.json     the shard, where the next one begins, and what was counted up to there
    datasets/NAME/building/tokenizer-DIGEST      the tokenizer that was trained on the corpus

The first DIGEST is of the tokenizer and the settings; a record counts while the files up to its end are what they were. The other is of the
corpus, and of how the tokenizer is trained.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from tokenizers import Tokenizer

from data_pipeline.dataset.batches import Encoding
from data_pipeline.dataset.manifest import ShardRef, dataset_prefix, shard_from_plain, shard_to_plain
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.dataset.tokenizer import tokenizer_from_json, train_tokenizer
from data_pipeline.errors import TokenizerInvalid
from data_pipeline.sources.corpus import Corpus, Start
from data_pipeline.sources.protocol import Place
from data_pipeline.store.protocol import KeyMissing, ObjectStore

_FORMAT = 1
"""Another one whenever the same text would give other shards."""
_READ_AT_ONCE = 16
_TOKENIZER = "tokenizer-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A shard that is on the store."""

    shard: ShardRef
    pages: bytes
    """The digests of its pages."""
    next: Start
    """Where the next shard begins."""
    done: BuildProgress
    """What was counted up to there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Records:
    """The records of one build."""

    store: ObjectStore
    prefix: str
    """Of all builds of the dataset."""
    digest: str
    corpus: tuple[str, ...]
    """A digest of the corpus's files up to each."""
    _stale: set[str] = field(default_factory=set)
    """Keys of what records name and this build makes anew."""

    def read(self, sizes: dict[str, int]) -> list[Finished]:
        """The shards that need not be made again; `sizes` are those of the objects that are there, by key."""
        known = {info.key for info in self.store.list(f"{self.prefix}{self.digest}/")}
        num_known = next(number for number in range(len(known) + 1) if self._key(number) not in known)
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            records = list(pool.map(self._read, map(self._key, range(num_known))))
        found: list[Finished] = []
        for record in records:
            finished = self._finished(record)
            if finished is None or not _is_there(finished.shard, sizes):
                break
            found.append(finished)
        self._stale.update(*map(_objects_of, records[len(found) :]))
        return found

    def write(self, number: int, finished: Finished) -> None:
        plain = {
            "corpus": self.corpus[finished.next.file],
            "shard": shard_to_plain(finished.shard),
            "pages": base64.b64encode(finished.pages).decode(),
            "next": asdict(finished.next),
            "done": asdict(finished.done),
        }
        self.store.put(self._key(number), json.dumps(plain).encode())

    def remove(self, made: Sequence[ShardRef]) -> None:
        """Those of all builds of the dataset, and the shards that they name; those that were `made` stay."""
        keys = [info.key for info in self.store.list(self.prefix)]
        others = [key for key in keys if not key.startswith((f"{self.prefix}{self.digest}/", f"{self.prefix}{_TOKENIZER}"))]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            stale = self._stale.union(*map(_objects_of, pool.map(self._read, others)))
            stale -= {key for shard in made for key in _keys_of(shard)}
            list(pool.map(self.store.delete, [*stale, *keys]))  # records last, for who ends in between

    def _key(self, number: int) -> str:
        return f"{self.prefix}{self.digest}/{number:05d}.json"

    def _read(self, key: str) -> Any:
        """What a record holds; None where that is no JSON."""
        try:
            return json.loads(self.store.get(key))
        except (KeyMissing, ValueError):
            return None

    def _finished(self, plain: Any) -> Finished | None:
        """None for a record that does not hold any more."""
        try:
            start = Start(**plain["next"] | {"place": Place(**plain["next"]["place"])})
            if plain["corpus"] != self.corpus[start.file]:
                return None
            shard, pages = shard_from_plain(plain["shard"]), base64.b64decode(plain["pages"])
            return Finished(shard=shard, pages=pages, next=start, done=BuildProgress(**plain["done"]))
        except (ValueError, TypeError, KeyError, IndexError):
            return None


def _is_there(shard: ShardRef, sizes: dict[str, int]) -> bool:
    return sizes.get(shard.key) == shard.size_bytes and shard.documents is not None and shard.documents.key in sizes


def _objects_of(record: Any) -> Sequence[str]:
    """What a record names, whether it holds or not."""
    try:
        return _keys_of(shard_from_plain(record["shard"]))
    except (TypeError, KeyError):
        return ()


def _keys_of(shard: ShardRef) -> Sequence[str]:
    return (shard.key, *([shard.documents.key] if shard.documents else []))


def records_of(*, store: ObjectStore, name: str, corpus: Corpus, encoding: Encoding, shard_size_tokens: int) -> Records:
    """The records of a build of dataset `name`."""
    settings = [_FORMAT, version("tokenizers"), encoding.tokenizer, encoding.eos_id, encoding.dtype, shard_size_tokens]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    return Records(store=store, prefix=records_prefix(name), digest=digest, corpus=tuple(_digests_of(corpus)))


def records_prefix(name: str) -> str:
    """What the keys of all that an interrupted build left begin with."""
    return f"{dataset_prefix(name)}building/"


def _digests_of(corpus: Corpus) -> Iterator[str]:
    so_far = hashlib.sha256()
    for file in corpus.files:
        so_far.update(json.dumps([file.name, file.stamp.size_bytes, file.stamp.modified_ns]).encode())
        yield so_far.hexdigest()


def trained_tokenizer(store: ObjectStore, name: str, corpus: Corpus, vocab_size: int) -> Tokenizer:
    """`train_tokenizer` on the corpus of a build of dataset `name`, or what an interrupted build trained on it. Raises TokenizerInvalid."""
    *_, files = _digests_of(corpus)
    digest = hashlib.sha256(json.dumps([_FORMAT, version("tokenizers"), vocab_size, files]).encode()).hexdigest()[:16]
    key = f"{records_prefix(name)}{_TOKENIZER}{digest}"
    with suppress(KeyMissing, TokenizerInvalid):
        return tokenizer_from_json(store.get(key), where=store.url(key))
    content = train_tokenizer(corpus, vocab_size).to_str().encode()
    store.put(key, content)
    return tokenizer_from_json(content, where=store.url(key))
