"""Small datasets that are packed."""

import numpy as np

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pack import pack_dataset
from data_pipeline.dataset.packing import Packing
from data_pipeline.dataset.progress import Progress, unwatched
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.store.protocol import ObjectStore


def shard_of(lengths: list[int], *, first: int = 1, ends: bool = True) -> list[int]:
    """Documents of so many tokens, eos (0) included; the last one may be without. The tokens of a shard differ from each other."""
    tokens = np.arange(first, first + sum(lengths))
    tokens[np.cumsum(lengths)[: None if ends else -1] - 1] = 0
    return tokens.tolist()


def pack(store: ObjectStore, manifest: DatasetManifest, seq_len: int, progress: Progress = unwatched) -> Packing:
    return pack_dataset(shards=ShardStore(store), manifest=manifest, seq_len=seq_len, progress=progress)
