"""A dataset's documents packed into rows of one length: what is kept of it. The rows themselves are made by `order/best_fit.py`.

Keys under the storage root:
    datasets/NAME/packed/T/packing.json      written last; names the others
    datasets/NAME/packed/T/00000-INPUT-DIGEST.bin    the rows of one shard: what it was packed from, and the digest of its head

The object of a shard is a head of 32 bytes for the shard and for each window, and then the windows, little-endian:
    uint64[4]        rows, documents, documents that are cut, tokens of padding
    uint64[W, 4]     first token in the shard, the one behind the last, where the window ends behind the head, its XXH3
    a window:        uint32[R] pieces up to each row's end; uint32[P] first tokens, counted from the window's; uint32[P] tokens
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, dataset_prefix
from data_pipeline.dataset.pages import checksum
from data_pipeline.errors import PackingMissing
from data_pipeline.order.best_fit import VERSION, Window
from data_pipeline.order.plan import PackedRows
from data_pipeline.store.protocol import InvalidKey, KeyMissing, ObjectStore, check_key

ENTRY_BYTES = 32
_ENTRY = np.dtype("<u8")
_PIECE = np.dtype("<u4")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedShard:
    """The rows of one shard."""

    key: str
    sha256: str
    """SHA-256 of the object's head, in hex."""
    size_bytes: int
    num_rows: int

    def num_windows(self, window_rows: int) -> int:
        return -(-self.num_rows // window_rows)

    def head_bytes(self, window_rows: int) -> int:
        return ENTRY_BYTES * (1 + self.num_windows(window_rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """The rows of one length that a dataset's documents are packed into."""

    shards_digest: str
    """Of the shards that were packed, see `digest_of_shards`."""
    seq_len: int
    window_rows: int
    """R: rows of every window of a shard but its last."""
    num_documents: int
    num_cut: int
    """Documents that are longer than a row."""
    num_padding: int
    """Tokens that rows lack."""
    shards: tuple[PackedShard, ...]

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    @property
    def padding_share(self) -> float:
        return self.num_padding / (self.num_rows * (self.seq_len + 1) or 1)

    def in_words(self) -> str:
        """How much of rows is padding, and of documents is cut."""
        cut = 100 * self.num_cut / (self.num_documents or 1)
        return (
            f"rows of {self.seq_len:,} tokens, packed: {self.num_rows:,}; {100 * self.padding_share:.3g} % of them is padding, and "
            f"{self.num_cut:,} of {self.num_documents:,} documents ({cut:.3g} %), longer than a row, are cut"
        )

    @property
    def digest(self) -> str:
        """Of which tokens each row has."""
        return hashlib.sha256(packing_to_json(self)).hexdigest()


Counts = tuple[int, int, int, int]
"""Of a shard: rows, documents, documents that are cut, tokens of padding."""
Packings = Mapping[tuple[str, int], Packing]
"""By dataset and length."""
NO_PACKINGS: Packings = {}


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What the beginning of a shard's object tells."""

    entries: NDArray[np.uint64]
    """Shape (1 + windows, 4)."""

    @property
    def counts(self) -> Counts:
        rows, documents, cut, padding = self.entries[0].tolist()
        return rows, documents, cut, padding

    @property
    def size_bytes(self) -> int:
        """Of the whole object."""
        return self.entries.nbytes + (int(self.entries[-1, 2]) if len(self.entries) > 1 else 0)

    def tokens(self, window: int) -> range:
        """Where the tokens of a window lie in the shard."""
        begin, end = self.entries[1 + window, :2].tolist()
        return range(begin, end)

    def bytes_of(self, window: int) -> range:
        """Where a window is in the object."""
        begin = int(self.entries[window, 2]) if window else 0
        head = self.entries.nbytes
        return range(head + begin, head + int(self.entries[1 + window, 2]))

    def is_right(self, window: int, data: bytes) -> bool:
        return int(checksum(data), 16) == int(self.entries[1 + window, 3])


def head_from_bytes(data: bytes) -> Head:
    return Head(np.frombuffer(data, _ENTRY).reshape(-1, 4))


@dataclass(kw_only=True, slots=True)
class DocumentCount:
    """Of the documents of a shard that were packed so far."""

    num_documents: int = 0
    num_cut: int = 0


def shard_to_bytes(windows: Iterable[Window], documents: DocumentCount, *, seq_len: int) -> tuple[bytes, int]:
    """The object of a shard, and the size of its head; `documents` counts up with the windows."""
    entries, records, end, num_rows, num_packed = [], [], 0, 0, 0
    for window in windows:
        starts, counts = window.pieces.starts, window.pieces.counts
        begin = int(starts.min())
        records.append(np.concatenate([window.row_ends, starts - begin, counts]).astype(_PIECE).tobytes())
        end += len(records[-1])
        entries.append((begin, int((starts + counts).max()), end, int(checksum(records[-1]), 16)))
        num_rows += len(window.row_ends)
        num_packed += int(counts.sum())
    first = (num_rows, documents.num_documents, documents.num_cut, num_rows * (seq_len + 1) - num_packed)
    head = np.array([first, *entries], _ENTRY).tobytes()
    return head + b"".join(records), len(head)


def pieces_of_row(window: bytes, row: int, *, begin: int, num_rows: int) -> list[tuple[int, int]]:
    """(first token in the shard, tokens) of the pieces of a row, of a window of `num_rows` rows whose first token is `begin`."""
    numbers = np.frombuffer(window, _PIECE)
    num_pieces = (len(numbers) - num_rows) // 2
    first = num_rows + (int(numbers[row - 1]) if row else 0)
    end = num_rows + int(numbers[row])
    starts, counts = numbers[first:end].tolist(), numbers[first + num_pieces : end + num_pieces].tolist()
    return [(begin + start, count) for start, count in zip(starts, counts, strict=True)]


def packing_key(name: str, seq_len: int) -> str:
    return f"{packed_prefix(name, seq_len)}packing.json"


def packed_prefix(name: str, seq_len: int) -> str:
    """What the keys of a packing begin with."""
    return f"{dataset_prefix(name)}packed/{seq_len}/"


def digest_of_shards(manifest: DatasetManifest) -> str:
    """Of which tokens a dataset has, in which shards, in hex."""
    return hashlib.sha256("".join(shard.sha256 for shard in manifest.shards).encode()).hexdigest()


def packing_to_json(packing: Packing) -> bytes:
    """As it is stored; the same packing gives the same bytes."""
    return (json.dumps({"version": VERSION} | asdict(packing), indent=1) + "\n").encode()


def load_packing(store: ObjectStore, manifest: DatasetManifest, seq_len: int) -> Packing:
    """Raises PackingMissing where the dataset, as it is now, is not packed by this version for rows of this length; StoreError."""
    key, again = packing_key(manifest.name, seq_len), remedy(manifest.name, seq_len)
    try:
        text = store.get(key)
    except KeyMissing as error:
        raise PackingMissing(
            f"data.packing=best_fit: dataset {manifest.name} is not packed for rows of {seq_len} tokens; run {again}"
        ) from error
    try:
        found = json.loads(text)
        if found.pop("version") != VERSION:
            raise PackingMissing(f"{store.url(key)}: was packed by another version of braid; run {again}")
        packing = Packing(**found | {"shards": tuple(PackedShard(**shard) for shard in found["shards"])})
        is_it = packing.seq_len == seq_len and all(check_key(shard.key) for shard in packing.shards)
        if any(not 0 < shard.head_bytes(packing.window_rows) <= shard.size_bytes for shard in packing.shards):
            raise ValueError("a head that is longer than its object")
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, InvalidKey) as error:
        raise PackingMissing(f"{store.url(key)}: is not what was written there; run {again}") from error
    if not is_it or packing.shards_digest != digest_of_shards(manifest) or len(packing.shards) != len(manifest.shards):
        raise PackingMissing(f"{store.url(key)}: packs other shards than dataset {manifest.name} has; run {again}")
    return packing


def remedy(name: str, seq_len: int) -> str:
    return f"`braid data pack {name} --seq-len {seq_len}`"


def load_packings(store: ObjectStore, manifests: Sequence[DatasetManifest], config: DataConfig) -> Packings:
    """What a run with these datasets needs; nothing where samples are cut from shards. Raises PackingMissing, StoreError."""
    if config.packing == "concat":
        return NO_PACKINGS
    lengths = sorted({phase.seq_len or config.seq_len for phase in config.phases} or {config.seq_len})
    return {(one.name, seq_len): load_packing(store, one, seq_len) for one in manifests for seq_len in lengths}


def refuse_lacking_tables(packings: Packings, store: ObjectStore) -> None:
    """Raises PackingMissing where an object is missing or of another size, as one listing for each packing tells."""
    for (name, seq_len), packing in packings.items():
        sizes = {info.key: info.size_bytes for info in store.list(packed_prefix(name, seq_len))}
        if lacking := [shard.key for shard in packing.shards if sizes.get(shard.key) != shard.size_bytes]:
            raise PackingMissing(
                f"data.packing=best_fit: {len(lacking)} of {len(packing.shards)} tables of {name} are missing or of another size, "
                f"the first: {store.url(lacking[0])}; run {remedy(name, seq_len)}"
            )


def packed_lengths(store: ObjectStore, name: str) -> list[int]:
    """The lengths of rows that a dataset's documents are packed into."""
    prefix, suffix = f"{dataset_prefix(name)}packed/", "/packing.json"
    found = [info.key.removeprefix(prefix).removesuffix(suffix) for info in store.list(prefix) if info.key.endswith(suffix)]
    return sorted(int(length) for length in found if length.isdecimal())


def problem_of_table(store: ObjectStore, shard: PackedShard, window_rows: int) -> str:
    """Reads all of a shard's object; "" where it is what was packed."""
    url = store.url(shard.key)
    try:
        data = store.get(shard.key)
    except KeyMissing:
        return f"{url}: is missing"
    head = data[: shard.head_bytes(window_rows)]
    if len(data) != shard.size_bytes or hashlib.sha256(head).hexdigest() != shard.sha256:
        return f"{url}: is not what was packed"
    for window in range(shard.num_windows(window_rows)):
        where = head_from_bytes(head).bytes_of(window)
        if not head_from_bytes(head).is_right(window, data[where.start : where.stop]):
            return f"{url}: bytes {where.start:,} to {where.stop:,} are not what was packed"
    return ""


def packed_rows(packings: Packings, name: str) -> dict[int, PackedRows]:
    """For the order of a dataset's rows, by their length."""
    return {
        seq_len: PackedRows(shard_rows=[shard.num_rows for shard in packing.shards], window_rows=packing.window_rows, digest=packing.digest)
        for (dataset, seq_len), packing in packings.items()
        if dataset == name
    }
