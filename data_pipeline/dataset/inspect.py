"""Looks into a dataset for a person: `braid data inspect`."""

import hashlib
from dataclasses import dataclass

import numpy as np

from data_pipeline.dataset.manifest import BYTES_PER_TOKEN, DatasetManifest, ShardRef, load_manifest
from data_pipeline.dataset.tokenizer import tokenizer_from_json
from data_pipeline.errors import DataError
from data_pipeline.store.protocol import KeyMissing, ObjectStore

NUM_SHOWN_TOKENS = 64
_READ_SIZE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetReport:
    manifest: DatasetManifest
    first_text: str
    """The first tokens of the first shard, decoded."""
    problems: tuple[str, ...]
    """One line each; empty where every shard is as the manifest says."""


def inspect_dataset(*, store: ObjectStore, name: str, verify_digests: bool = False) -> DatasetReport:
    """Sizes always, digests where asked for (reads everything). Raises DatasetMissing, ManifestInvalid or what the store raises."""
    manifest = load_manifest(store, name)
    problems = [problem for ref in manifest.shards if (problem := _problem_of(ref, store, verify_digests))]
    try:
        first_text = _first_text(manifest, store)
    except (KeyMissing, DataError) as error:
        first_text = ""
        problems.append(str(error))
    return DatasetReport(manifest=manifest, first_text=first_text, problems=tuple(dict.fromkeys(problems)))


def _problem_of(ref: ShardRef, store: ObjectStore, verify_digest: bool) -> str:
    url = store.url(ref.key)
    sizes = {info.key: info.size_bytes for info in store.list(ref.key)}
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
    data = store.get_range(manifest.shards[0].key, 0, NUM_SHOWN_TOKENS * BYTES_PER_TOKEN[manifest.dtype])
    file_dtype = np.dtype(manifest.dtype).newbyteorder("<")
    whole = len(data) - len(data) % file_dtype.itemsize
    return str(tokenizer.decode(np.frombuffer(data[:whole], dtype=file_dtype).tolist(), skip_special_tokens=False))
