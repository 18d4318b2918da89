"""Looks into a dataset for a person: `braid data inspect`."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, load_manifest
from data_pipeline.dataset.shard_format import file_dtype
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DataError
from data_pipeline.store.protocol import KeyMissing, ObjectStore

NUM_SHOWN_TOKENS = 64
_READ_SIZE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    """What was found in a dataset."""

    manifest: DatasetManifest
    first_text: str
    """The first tokens of the first shard, decoded."""
    problems: tuple[str, ...]
    """One line for each; empty where every shard is as the manifest says."""


def inspect_dataset(*, store: ObjectStore, name: str, verify_digests: bool = False) -> DatasetReport:
    """Checks the size of every shard, and with `verify_digests` reads all of them and checks their digests.

    Raises DatasetMissing, ManifestInvalid, or what the store raises.
    """
    manifest = load_manifest(store, name)
    sizes = _sizes_beside(manifest.shards, store)
    problems = [problem for ref in manifest.shards if (problem := _problem_of(ref, sizes, store, verify_digests))]
    try:
        first_text = _first_text(manifest, store)
    except (KeyMissing, DataError) as error:
        first_text = ""
        problems.append(str(error))
    return DatasetReport(manifest=manifest, first_text=first_text, problems=tuple(dict.fromkeys(problems)))


def _sizes_beside(refs: Iterable[ShardRef], store: ObjectStore) -> dict[str, int]:
    """Size in bytes, by key, of every object in the shards' directories: one listing for each directory, however many shards."""
    directories = sorted({"".join(ref.key.rpartition("/")[:2]) for ref in refs})
    return {info.key: info.size_bytes for directory in directories for info in store.list(directory)}


def _problem_of(ref: ShardRef, sizes: Mapping[str, int], store: ObjectStore, verify_digest: bool) -> str:
    url = store.url(ref.key)
    if ref.key not in sizes:
        return f"{url}: is missing; rebuild the dataset with `braid data build`"
    if sizes[ref.key] != ref.size_bytes:
        return f"{url}: has {sizes[ref.key]} bytes, the manifest says {ref.size_bytes}; rebuild the dataset with `braid data build`"
    if verify_digest and _sha256_of(ref, store) != ref.sha256:
        return f"{url}: its SHA-256 is not the manifest's; rebuild the dataset with `braid data build`"
    return ""


def _sha256_of(ref: ShardRef, store: ObjectStore) -> str:
    digest = hashlib.sha256()
    for start in range(0, ref.size_bytes, _READ_SIZE_BYTES):
        digest.update(store.get_range(ref.key, start, _READ_SIZE_BYTES))
    return digest.hexdigest()


def _first_text(manifest: DatasetManifest, store: ObjectStore) -> str:
    tokenizer = tokenizer_from_json(store.get(manifest.tokenizer_key), where=store.url(manifest.tokenizer_key))
    if not manifest.shards:
        return ""
    dtype = file_dtype(manifest.dtype)
    data = store.get_range(manifest.shards[0].key, 0, NUM_SHOWN_TOKENS * dtype.itemsize)
    num_whole = len(data) // dtype.itemsize  # a damaged shard may end within a token
    return str(tokenizer.decode(np.frombuffer(data, dtype=dtype, count=num_whole).tolist(), skip_special_tokens=False))
