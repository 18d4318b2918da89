"""What a dataset consists of: its shards, with sizes and digests, and its tokenizer.

Keys under the storage root, for a dataset that `build.py` made:
    datasets/NAME/manifest.json              created once and last; names the others
    datasets/NAME/tokenizer-DIGEST.json      Hugging Face `tokenizers`
    datasets/NAME/shards/00000-DIGEST.bin    tokens (`shard_format.py`), with eos at the end of every document
    datasets/NAME/pages-DIGEST.bin           digests of the pages of all shards (`pages.py`)
    datasets/NAME/documents/00000-DIGEST.txt where the documents of a shard begin, and where they come from (`documents.py`)

Of one that `register.py` made, the shards are files where they were, maybe below other roots, and maybe there is no tokenizer:
    datasets/NAME/files/DIGEST.bin           digests of the pages of one file, and what else was found in it
"""

import json
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from data_pipeline.config import StorageConfig, check_name
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.errors import DatasetMissing, DatasetTooSmall, ManifestInvalid
from data_pipeline.order.sample_table import SampleTable, cut_samples
from data_pipeline.store.protocol import InvalidKey, KeyMissing, ObjectStore, check_key

VERSION = 1
BYTES_PER_TOKEN = {"uint16": 2, "uint32": 4}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentTable:
    """Which documents a shard is made of (`documents.py`)."""

    key: str
    head_bytes: int
    """Size of the object's beginning, which has the digests of the rest."""
    sha256: str
    """SHA-256 of that beginning, in hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRef:
    """One shard, as the manifest describes it."""

    key: str
    """Its key on the object store."""
    num_tokens: int
    size_bytes: int
    """Of its tokens: the file's, but for a header."""
    sha256: str
    """SHA-256 of its tokens, in hex."""
    root: str = field(default="", metadata={"omit_default": True})
    """Where its key is, `s3://bucket/prefix` or an absolute directory; empty: under storage.root, as all that is built."""
    offset_bytes: int = field(default=0, metadata={"omit_default": True})
    """Where its tokens begin in the file."""
    pages_key: str = field(default="", metadata={"omit_default": True})
    """Key of the digests of its pages, under storage.root; empty where the manifest's `pages` has them."""
    documents: DocumentTable | None = field(default=None, metadata={"omit_default": True})
    """None for what earlier versions made, and others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """The digests of all pages (`pages.py`) of all shards, in order, in one object."""

    key: str
    sha256: str
    """SHA-256 of that object, in hex."""
    page_bytes: int = PAGE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetManifest:
    """One dataset: how its tokens are to be read, and where they are."""

    name: str
    dtype: str
    """How a token is stored: `uint16` or `uint32`, little-endian."""
    eos_id: int
    """The token that ends every document."""
    vocab_size: int
    """X: every token is smaller."""
    tokenizer_key: str
    """Key of the tokenizer, a Hugging Face `tokenizers` JSON file, on the object store; empty where there is none."""
    shards: tuple[ShardRef, ...]
    num_text_bytes: int = field(default=0, metadata={"omit_default": True})
    """Bytes of the documents' text in UTF-8; 0 where nobody counted them: what earlier versions or others made."""

    pages: PageTable | None = field(default=None, metadata={"omit_default": True})
    """None for what earlier versions made, and others."""

    @property
    def has_page_digests(self) -> bool:
        return self.pages is not None or all(shard.pages_key for shard in self.shards)

    @property
    def bytes_per_token(self) -> float | None:
        """Of text, eos counted as a token; None where the bytes are not known."""
        return self.num_text_bytes / self.num_tokens if self.num_text_bytes and self.num_tokens else None

    @property
    def num_tokens(self) -> int:
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards)

    def num_samples(self, seq_len: int) -> int:
        """How many samples of `seq_len` inputs the shards hold; may be none."""
        return cut_samples((shard.num_tokens for shard in self.shards), seq_len=seq_len).num_samples

    def num_unreached(self, seq_len: int) -> int:
        """Tokens that no sample of `seq_len` inputs holds: the ends of shards, and shards that are shorter than a row."""
        samples = (max(0, shard.num_tokens - 1) // seq_len for shard in self.shards)
        return self.num_tokens - sum(number * seq_len + 1 for number in samples if number)


def rows_in_words(manifest: DatasetManifest, seq_len: int) -> str:
    """How much of a dataset rows of `seq_len` tokens reach."""
    num_short = sum(shard.num_tokens <= seq_len for shard in manifest.shards)
    unreached = manifest.num_unreached(seq_len)
    share = 100 * unreached / (manifest.num_tokens or 1)
    short = f": {num_short:,} of {len(manifest.shards):,} shards are shorter than a row" if num_short else ""
    return (
        f"rows of {seq_len:,} tokens: {manifest.num_samples(seq_len):,}; {unreached:,} of {manifest.num_tokens:,} tokens ({share:.3g} %) "
        f"are in no row{short}"
    )


def build_sample_table(manifest: DatasetManifest, seq_len: int, *, setting: str = "data.seq_len") -> SampleTable:
    """Finds the samples of `seq_len` inputs, as `setting` wants them, in the shards. Raises DatasetTooSmall where not one fits."""
    shard_tokens = [shard.num_tokens for shard in manifest.shards]
    table = cut_samples(shard_tokens, seq_len=seq_len)
    if table.num_samples == 0:
        longest = max(shard_tokens, default=0)
        raise DatasetTooSmall(
            f"{setting}={seq_len}: the longest shard of dataset {manifest.name} has {longest} tokens; use less, or build from more text"
        )
    return table


def dataset_prefix(name: str) -> str:
    """What the keys of the dataset `name` begin with; ends with '/'. Raises ValueError where the name could lead elsewhere."""
    check_name(name, key="data.dataset")
    return f"datasets/{name}/"


def manifest_key(name: str) -> str:
    """Key of the manifest of the dataset `name`. Raises ValueError where the name could lead elsewhere."""
    return f"{dataset_prefix(name)}manifest.json"


def load_manifest(store: ObjectStore, name: str, *, setting: str = "data.dataset") -> DatasetManifest:
    """The manifest of the dataset `name`, named by `setting` of a run. Raises DatasetMissing, ManifestInvalid, or what the store raises."""
    key = manifest_key(name)
    try:
        text = store.get(key)
    except KeyMissing as error:
        raise DatasetMissing(
            f"{store.url(key)}: no such dataset; build it with `braid data build`, or fix {setting} or storage.root"
        ) from error
    return manifest_from_json(text, where=store.url(key))


def manifest_to_json(manifest: DatasetManifest) -> bytes:
    """The manifest as it is stored; the same manifest gives the same bytes."""
    return (json.dumps({"version": VERSION} | _plain(manifest), indent=1) + "\n").encode()


def _plain(value: Any) -> Any:
    """As JSON has it; without fields that say nothing, which earlier versions had not."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if not is_dataclass(value):
        return value
    found = {one: getattr(value, one.name) for one in fields(value)}
    return {one.name: _plain(held) for one, held in found.items() if not (one.metadata.get("omit_default") and held == one.default)}


def shard_to_plain(shard: ShardRef) -> dict[str, Any]:
    """As JSON has it."""
    plain: dict[str, Any] = _plain(shard)
    return plain


def shard_from_plain(plain: dict[str, Any]) -> ShardRef:
    """Raises TypeError where it is no shard; what its fields say is not checked."""
    documents = plain.get("documents")
    return ShardRef(**plain | {"documents": None if documents is None else DocumentTable(**documents)})


def manifest_from_json(text: bytes, *, where: str) -> DatasetManifest:
    """Reads what `manifest_to_json` wrote: every field and no other, each of its type.

    Raises ManifestInvalid, whose message begins with `where`.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or found.pop("version", None) != VERSION:
            raise ValueError(f"version is not {VERSION}")
        shards = found.pop("shards", None)
        if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
            raise ValueError("shards is not a list of objects")
        if (pages := found.pop("pages", None)) is not None:
            found["pages"] = PageTable(**pages)
        manifest = DatasetManifest(shards=tuple(map(shard_from_plain, shards)), **found)
        _check(manifest)
    except (ValueError, TypeError, RecursionError, InvalidKey) as error:
        reason = str(error).replace("\n", " ").replace("DatasetManifest.__init__() ", "").replace("ShardRef.__init__() ", "")
        raise ManifestInvalid(f"{where}: not a dataset manifest of this version ({reason}); rebuild it with `braid data build`") from error
    return manifest


def _check(manifest: DatasetManifest) -> None:
    _require(type(manifest.name) is str, "name")
    check_name(manifest.name, key="name")
    _require(type(manifest.dtype) is str and manifest.dtype in BYTES_PER_TOKEN, "dtype")
    _require(_is_count(manifest.vocab_size) and manifest.vocab_size <= 2 ** (8 * BYTES_PER_TOKEN[manifest.dtype]), "vocab_size")
    _require(_is_count(manifest.eos_id) and manifest.eos_id < manifest.vocab_size, "eos_id")
    _require(_is_count(manifest.num_text_bytes), "num_text_bytes")
    _require(type(manifest.tokenizer_key) is str, "tokenizer_key")
    if manifest.tokenizer_key:
        check_key(manifest.tokenizer_key)
    if manifest.pages is not None:
        _require(type(manifest.pages.key) is str, "pages.key")
        check_key(manifest.pages.key)
        _require(_is_sha256(manifest.pages.sha256), "pages.sha256")
        _require(manifest.pages.page_bytes == PAGE_BYTES, "pages.page_bytes")
    for shard in manifest.shards:
        _check_shard(shard, manifest.dtype)
    for root in {shard.root for shard in manifest.shards}:
        _require(not root or root.startswith("/") or StorageConfig(root=root).is_s3, "shards.root")


def _check_shard(shard: ShardRef, dtype: str) -> None:
    _require(type(shard.key) is str, "shards.key")
    check_key(shard.key)
    _require(_is_count(shard.num_tokens), "shards.num_tokens")
    size_bytes = shard.num_tokens * BYTES_PER_TOKEN[dtype]
    _require(_is_count(shard.size_bytes) and shard.size_bytes == size_bytes, "shards.size_bytes")
    _require(_is_sha256(shard.sha256), "shards.sha256")
    _require(type(shard.root) is str, "shards.root")
    _require(_is_count(shard.offset_bytes), "shards.offset_bytes")
    _require(type(shard.pages_key) is str, "shards.pages_key")
    if shard.pages_key:
        check_key(shard.pages_key)
    if (documents := shard.documents) is not None:
        _require(type(documents.key) is str, "shards.documents.key")
        check_key(documents.key)
        _require(_is_count(documents.head_bytes), "shards.documents.head_bytes")
        _require(_is_sha256(documents.sha256), "shards.documents.sha256")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_sha256(value: Any) -> bool:
    return type(value) is str and _SHA256.fullmatch(value) is not None


def _require(holds: bool, field: str) -> None:
    if not holds:
        raise ValueError(f"{field} has an impossible value")
