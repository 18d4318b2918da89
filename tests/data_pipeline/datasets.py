"""Small datasets for tests, made without a tokenizer."""

import hashlib

import numpy as np

from data_pipeline.dataset.build import put_pages
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, manifest_key, manifest_to_json
from data_pipeline.dataset.pages import page_digests
from data_pipeline.store.protocol import ObjectStore


def put_dataset(
    store: ObjectStore, *shards: list[int], name: str = "tiny", dtype: str = "uint16", vocab_size: int = 1000, is_paged: bool = True
) -> DatasetManifest:
    """A dataset of exactly these tokens; eos is 0. One that is not `is_paged` has no digests of pages, as of earlier versions."""
    refs, digests = [], b""
    for number, tokens in enumerate(shards):
        data = np.asarray(tokens, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()
        key = f"datasets/{name}/shards/{number}.bin"
        store.put(key, data)
        digests += page_digests(data)
        refs.append(ShardRef(key=key, num_tokens=len(tokens), size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    manifest = DatasetManifest(
        name=name,
        dtype=dtype,
        eos_id=0,
        vocab_size=vocab_size,
        tokenizer_key=f"datasets/{name}/tokenizer.json",
        shards=tuple(refs),
        pages=put_pages(store, name, digests) if is_paged else None,
    )
    store.put(manifest_key(name), manifest_to_json(manifest))
    return manifest
