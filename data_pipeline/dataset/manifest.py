"""What a dataset consists of: flat little-endian token files on the object store, with sizes and digests.

Layout under the storage root: `datasets/NAME/manifest.json` (created last, once), `datasets/NAME/tokenizer.json`-like file and the shards.
A shard is nothing but tokens, documents separated by eos, so that existing OLMo and Dolma token files serve as they are.

Samples: a sample is T + 1 consecutive tokens of one shard (T inputs and their next-token labels), and samples start every T tokens.
No sample crosses shards, so a shard of n tokens holds (n - 1) // T samples and up to T tokens at its end stay unused.
"""

import json
import re
from bisect import bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from data_pipeline.config import check_name
from data_pipeline.errors import DatasetMissing, DatasetTooSmall, ManifestInvalid
from data_pipeline.store.protocol import InvalidKey, KeyMissing, ObjectStore, check_key

VERSION = 1
BYTES_PER_TOKEN = {"uint16": 2, "uint32": 4}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRef:
    key: str
    num_tokens: int
    size_bytes: int
    sha256: str
    """Of the whole file, in hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetManifest:
    name: str
    dtype: str
    """`uint16` or `uint32`, little-endian."""
    eos_id: int
    """The token after every document."""
    vocab_size: int
    """X: every token is below it."""
    tokenizer_key: str
    """Of the Hugging Face `tokenizers` JSON file."""
    shards: tuple[ShardRef, ...]

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards)

    def num_samples(self, seq_len: int) -> int:
        return sum(_samples_of(shard, seq_len) for shard in self.shards)


@dataclass(frozen=True, slots=True)
class SampleTable:
    """Finds a sample by its index in O(log shards)."""

    seq_len: int
    ends: tuple[int, ...]
    """For each shard, the number of samples up to its end."""

    @property
    def num_samples(self) -> int:
        return self.ends[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """(which shard, its token at which the sample starts)."""
        shard = bisect_right(self.ends, index)
        first = self.ends[shard - 1] if shard else 0
        return shard, (index - first) * self.seq_len


def build_sample_table(manifest: DatasetManifest, seq_len: int) -> SampleTable:
    """Raises DatasetTooSmall where not one sample fits."""
    if manifest.num_samples(seq_len) == 0:
        longest = max((shard.num_tokens for shard in manifest.shards), default=0)
        raise DatasetTooSmall(
            f"data.seq_len={seq_len}: the longest shard of dataset {manifest.name} has {longest} tokens; use less, or build from more text"
        )
    return SampleTable(seq_len, tuple(accumulate(_samples_of(shard, seq_len) for shard in manifest.shards)))


def manifest_key(name: str) -> str:
    check_name(name, key="data.dataset")
    return f"datasets/{name}/manifest.json"


def load_manifest(store: ObjectStore, name: str) -> DatasetManifest:
    """Raises DatasetMissing or ManifestInvalid."""
    key = manifest_key(name)
    try:
        text = store.get(key)
    except KeyMissing as error:
        raise DatasetMissing(
            f"{store.url(key)}: no such dataset; build it with `braid data build`, or fix data.dataset or storage.root"
        ) from error
    return manifest_from_json(text, where=store.url(key))


def manifest_to_json(manifest: DatasetManifest) -> bytes:
    return (json.dumps({"version": VERSION} | asdict(manifest), indent=1) + "\n").encode()


def manifest_from_json(text: bytes, *, where: str) -> DatasetManifest:
    """Strict: every field, no other, each of its type. `where` names the file in ManifestInvalid."""
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.pop("version", None) != VERSION:
            raise ValueError(f"version is not {VERSION}")
        shards = fields.pop("shards", None)
        if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
            raise ValueError("shards is not a list of objects")
        manifest = DatasetManifest(shards=tuple(ShardRef(**shard) for shard in shards), **fields)
        _check(manifest)
    except (ValueError, TypeError, InvalidKey) as error:
        reason = str(error).replace("\n", " ").replace("DatasetManifest.__init__() ", "").replace("ShardRef.__init__() ", "")
        raise ManifestInvalid(f"{where}: not a dataset manifest of this version ({reason}); rebuild it with `braid data build`") from error
    return manifest


def _samples_of(shard: ShardRef, seq_len: int) -> int:
    return max(0, shard.num_tokens - 1) // seq_len


def _check(manifest: DatasetManifest) -> None:
    _require(type(manifest.name) is str, "name")
    check_name(manifest.name, key="name")
    _require(type(manifest.dtype) is str and manifest.dtype in BYTES_PER_TOKEN, "dtype")
    _require(_is_count(manifest.vocab_size) and manifest.vocab_size <= 2 ** (8 * BYTES_PER_TOKEN[manifest.dtype]), "vocab_size")
    _require(_is_count(manifest.eos_id) and manifest.eos_id < manifest.vocab_size, "eos_id")
    _require(type(manifest.tokenizer_key) is str, "tokenizer_key")
    check_key(manifest.tokenizer_key)
    for shard in manifest.shards:
        _require(type(shard.key) is str, "shards.key")
        check_key(shard.key)
        _require(_is_count(shard.num_tokens), "shards.num_tokens")
        _require(shard.size_bytes == shard.num_tokens * BYTES_PER_TOKEN[manifest.dtype], "shards.size_bytes")
        _require(type(shard.sha256) is str and _SHA256.fullmatch(shard.sha256) is not None, "shards.sha256")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _require(holds: bool, field: str) -> None:
    if not holds:
        raise ValueError(f"{field} has an impossible value")
