"""The hashes of rows, read again from their shards by who checks what a run trained on."""

import tracemalloc

import numpy as np
import pytest

from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.sample_table import cut_samples
from data_pipeline.read.row_hash import hashes_of_samples, row_hash
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore


def test_rows_of_a_shard_are_hashed_while_it_passes_and_only_a_piece_of_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.read.fetch.FETCH_SIZE_BYTES", 2**16)
    store = MemoryStore()
    tokens = np.random.default_rng(0).integers(0, 1000, 2**21)
    manifest, table = put_dataset(store, tokens.tolist()), cut_samples([len(tokens)], seq_len=1000)
    wanted = [3, 4, 0, 70, 71, 2000, table.num_samples - 1]  # whose pieces of 32,768 tokens are some the same, some two
    tracemalloc.start()
    found = hashes_of_samples(wanted, manifest=manifest, table=table, store=store)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {index: row_hash(tokens[1000 * index : 1000 * index + 1001]) for index in wanted}
    assert peak_bytes < 2**19 < manifest.size_bytes // 4


def test_rows_count_only_once_the_whole_shard_has_its_digest() -> None:
    store = MemoryStore()
    manifest, table = put_dataset(store, [*range(1, 100)], [*range(100, 200)]), cut_samples([99, 100], seq_len=10)
    key = manifest.shards[0].key
    store.objects[key] = store.objects[key][:-2] + b"\xff\0"
    with pytest.raises(ShardCorrupt, match=r"0\.bin: its SHA-256 is"):
        hashes_of_samples([0, 9], manifest=manifest, table=table, store=store)
    assert [*hashes_of_samples([0, 9], manifest=manifest, table=table, store=store, skips_corrupt=True)] == [9]


def test_of_a_damaged_shard_only_the_rows_of_damaged_pages_are_left_out() -> None:
    store = MemoryStore()
    tokens = np.random.default_rng(0).integers(1, 1000, 2**16)  # four pages
    manifest, table = put_dataset(store, tokens.tolist()), cut_samples([len(tokens)], seq_len=1024)
    key = manifest.shards[0].key
    data = bytearray(store.objects[key])
    data[2**15 + 5] ^= 1  # in the second page, with tokens 16,384 … 32,767
    store.objects[key] = bytes(data)
    found = hashes_of_samples(range(table.num_samples), manifest=manifest, table=table, store=store, skips_corrupt=True)
    assert found == {index: row_hash(tokens[1024 * index : 1024 * index + 1025]) for index in (*range(15), *range(32, table.num_samples))}
