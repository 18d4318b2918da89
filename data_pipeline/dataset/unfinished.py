"""What a build that was interrupted has finished: a small record beside each shard, until the manifest is written.

    datasets/NAME/building/DIGEST/00000.json     the shard, where the next one begins, and what was counted up to there

DIGEST is of the tokenizer and the settings. A record counts while the files up to its end are what they were.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version

from data_pipeline.dataset.batches import Encoding
from data_pipeline.dataset.manifest import ShardRef, dataset_prefix, shard_from_plain, shard_to_plain
from data_pipeline.dataset.progress import BuildProgress
from data_pipeline.sources.corpus import Corpus, Start
from data_pipeline.sources.protocol import Place
from data_pipeline.store.protocol import KeyMissing, ObjectStore

_FORMAT = 1
"""Another one whenever the same text would give other shards."""
_READ_AT_ONCE = 16


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

    def read(self, sizes: dict[str, int]) -> list[Finished]:
        """The shards that need not be made again; `sizes` are those of the objects that are there, by key."""
        known = {info.key for info in self.store.list(f"{self.prefix}{self.digest}/")}
        num_known = next(number for number in range(len(known) + 1) if self._key(number) not in known)
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            records = list(pool.map(self._read, range(num_known)))
        found: list[Finished] = []
        for record in records:
            if record is None or sizes.get(record.shard.key) != record.shard.size_bytes:
                break
            if record.shard.documents is None or record.shard.documents.key not in sizes:
                break
            found.append(record)
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

    def remove(self) -> None:
        """Those of all builds of the dataset."""
        for info in self.store.list(self.prefix):
            self.store.delete(info.key)

    def _key(self, number: int) -> str:
        return f"{self.prefix}{self.digest}/{number:05d}.json"

    def _read(self, number: int) -> Finished | None:
        """None for one that does not hold any more."""
        try:
            plain = json.loads(self.store.get(self._key(number)))
            start = Start(**plain["next"] | {"place": Place(**plain["next"]["place"])})
            if plain["corpus"] != self.corpus[start.file]:
                return None
            shard, pages = shard_from_plain(plain["shard"]), base64.b64decode(plain["pages"])
            return Finished(shard=shard, pages=pages, next=start, done=BuildProgress(**plain["done"]))
        except (KeyMissing, ValueError, TypeError, KeyError, IndexError):
            return None


def records_of(*, store: ObjectStore, name: str, corpus: Corpus, encoding: Encoding, shard_size_tokens: int) -> Records:
    """The records of a build of dataset `name`."""
    settings = [_FORMAT, version("tokenizers"), encoding.tokenizer, encoding.eos_id, encoding.dtype, shard_size_tokens]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    return Records(store=store, prefix=f"{dataset_prefix(name)}building/", digest=digest, corpus=tuple(_digests_of(corpus)))


def _digests_of(corpus: Corpus) -> Iterator[str]:
    so_far = hashlib.sha256()
    for file in corpus.files:
        so_far.update(json.dumps([file.name, file.stamp.size_bytes, file.stamp.modified_ns]).encode())
        yield so_far.hexdigest()
