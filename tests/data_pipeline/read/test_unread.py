"""Rows that can't be read: the run ends, or goes on without them and knows which they were."""

from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.pages import PAGE_BYTES
from data_pipeline.errors import ShardCorrupt, ShardMissing
from data_pipeline.read.batch import NO_LABEL, TokenBatch
from data_pipeline.read.loader import build_loader
from data_pipeline.read.row_hash import row_hash, token_digests
from data_pipeline.store.protocol import StoreUnavailable
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

SEQ_LEN, ROWS = 1000, 8
SKIP = DataConfig(dataset="tiny", seq_len=SEQ_LEN, on_corrupt="skip")
SHARDS = [[7 + (number * 31 + place * place) % 900 for place in range(6 * PAGE_BYTES // 2)] for number in range(2)]
NUM_STEPS = 2 * ((len(SHARDS[0]) - 1) // SEQ_LEN) // ROWS


@dataclass(slots=True)
class Store(MemoryStore):
    """A store, and the manifest of the dataset in it as it was made."""

    manifest: DatasetManifest | None = None
    reads: list[int] = field(default_factory=list)
    """Bytes that each read of a shard gave."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = MemoryStore.get_range(self, key, start, length)
        if "/shards/" in key:
            self.reads.append(len(data))
        return data


def read(
    store: Store, directory: Path, config: DataConfig = SKIP, *, dp_rank: int = 0, dp_size: int = 1, keeps: bool = False
) -> list[TokenBatch]:
    loader = build_loader(
        manifests=(store.manifest,),
        config=config,
        store=store,
        cache_dir=directory,
        batch_rows=ROWS,
        dp_rank=dp_rank,
        dp_size=dp_size,
        keeps_blocks=keeps,
    )
    with closing(loader):
        return [loader.batch(step) for step in range(1, NUM_STEPS + 1)]


def a_store(*, paged: bool = True) -> Store:
    store = Store()
    store.manifest = put_dataset(store, *SHARDS, is_paged=paged)
    return store


def flip(store: Store, token: int, shard: int = 0) -> None:
    data = bytearray(store.objects[f"datasets/tiny/shards/{shard}.bin"])
    data[2 * token] ^= 1
    store.objects[f"datasets/tiny/shards/{shard}.bin"] = bytes(data)


def unread_samples(batches: list[TokenBatch]) -> set[int]:
    return {
        sample.index
        for batch in batches
        for sample, labels in zip(batch.samples, batch.labels_BT, strict=True)
        if (labels == NO_LABEL).all()
    }


@pytest.mark.parametrize("keeps", [False, True])
def test_of_a_damaged_page_exactly_the_rows_that_need_it_are_left_out(keeps: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = a_store()
    good = read(store, tmp_path / "good")
    flip(store, token=40_000)
    page = 40_000 * 2 // PAGE_BYTES
    touched = {index for index in range(98) if page in range(index * 2000 // PAGE_BYTES, (index * 2000 + 2001) // PAGE_BYTES + 1)}
    batches = read(store, tmp_path / "bad", keeps=keeps)
    seen = {sample.index for batch in batches for sample in batch.samples}
    assert unread_samples(batches) == touched & seen
    assert len(touched) > 10
    assert sum(batch.num_unread for batch in batches) == len(touched & seen)
    blank = row_hash(np.zeros(SEQ_LEN + 1, dtype=np.int64))
    for batch, right in zip(batches, good, strict=True):
        for row, sample in enumerate(batch.samples):
            if sample.index in touched:
                assert (batch.tokens_BT[row] == 0).all(), "eos"
                assert batch.hashes[row] == blank
            else:
                assert torch.equal(batch.tokens_BT[row], right.tokens_BT[row])
                assert torch.equal(batch.labels_BT[row], right.labels_BT[row])
    warnings = [record.message for record in caplog.records if "are skipped" in record.message]
    assert len(warnings) == 1, "once for the shard"
    assert warnings[0].startswith(
        f"memory:datasets/tiny/shards/0.bin: bytes {page * PAGE_BYTES:,} to {(page + 1) * PAGE_BYTES:,} have the digest"
    )


def test_which_rows_those_are_is_the_same_for_every_world_size(tmp_path: Path):
    store = a_store()
    flip(store, token=40_000)
    config = replace(SKIP, shuffle="blocks", shuffle_window=2)
    whole = unread_samples(read(store, tmp_path / "one", config, keeps=True))
    assert whole
    for num_ranks in (2, 4):
        directory = tmp_path / str(num_ranks)
        together = [
            unread_samples(read(store, directory, config, dp_rank=rank, dp_size=num_ranks, keeps=True)) for rank in range(num_ranks)
        ]
        assert set().union(*together) == whole


@pytest.mark.parametrize("paged", [True, False])
def test_a_missing_shard_costs_its_rows_and_an_earlier_dataset_is_not_read_for_each_of_them(paged: bool, tmp_path: Path):
    store = a_store(paged=paged)
    del store.objects["datasets/tiny/shards/1.bin"]
    batches = read(store, tmp_path)
    assert unread_samples(batches) == {sample.index for batch in batches for sample in batch.samples if sample.index >= 98}


def test_a_shard_of_an_earlier_dataset_that_stays_wrong_is_read_twice_and_no_more(tmp_path: Path):
    reads = []
    store = a_store(paged=False)
    flip(store, token=3)
    store.fault = lambda operation, key: reads.append(key)
    batches = read(store, tmp_path)
    assert sum(batch.num_unread for batch in batches) > 40
    assert reads.count("datasets/tiny/shards/0.bin") == 2


def test_unless_it_is_asked_for_nothing_is_skipped(tmp_path: Path):
    store = a_store()
    flip(store, token=40_000)
    with pytest.raises(ShardCorrupt, match=r"or leave its rows out with data\.on_corrupt=skip$"):
        read(store, tmp_path, replace(SKIP, on_corrupt="fail"))
    del store.objects["datasets/tiny/shards/1.bin"]
    with pytest.raises((ShardMissing, ShardCorrupt)):
        read(store, tmp_path, replace(SKIP, on_corrupt="fail"))


def test_a_store_that_is_away_and_tokens_of_another_dtype_are_never_skipped(tmp_path: Path):
    store = a_store()

    def away(operation: str, key: str) -> None:
        if key.endswith("0.bin"):
            raise StoreUnavailable("no answer")

    store.fault = away
    with pytest.raises(StoreUnavailable):
        read(store, tmp_path)
    store.fault, store.manifest = lambda operation, key: None, replace(store.manifest, vocab_size=100)
    with pytest.raises(ShardCorrupt, match="but vocab_size=100"):
        read(store, tmp_path)


def test_steps_with_shards_that_cant_be_read_again_have_no_digest(tmp_path: Path):
    store = a_store()
    whole = token_digests(range(1, 6), manifests=(store.manifest,), config=SKIP, batch_rows=1, store=store)
    flip(store, token=3)
    left = token_digests(range(1, 6), manifests=(store.manifest,), config=SKIP, batch_rows=1, store=store)
    assert left.items() < whole.items()
    with pytest.raises(ShardCorrupt):
        token_digests(range(1, 6), manifests=(store.manifest,), config=replace(SKIP, on_corrupt="fail"), batch_rows=1, store=store)


def test_repetitive_rows_keep_their_tokens_and_ask_for_nothing(tmp_path: Path):
    store = Store()
    tokens = list(range(1, 201)) + [5, 6, 7] * 40 + list(range(1, 82))
    store.manifest = put_dataset(store, tokens)
    filtered, plain = (
        build_loader(
            manifests=(store.manifest,),
            config=DataConfig(dataset="tiny", seq_len=100, repetition_filter=wanted),
            store=store, cache_dir=tmp_path, batch_rows=4,
        )
        for wanted in (True, False)
    )  # fmt: skip
    with closing(filtered), closing(plain):
        batch, before = filtered.batch(1), plain.batch(1)
    assert (batch.num_repetitive, before.num_repetitive) == (1, 0)
    assert unread_samples([batch]) == {2}
    assert torch.equal(batch.tokens_BT, before.tokens_BT)
    assert batch.hashes == before.hashes


BLOCKS = replace(SKIP, shuffle="blocks", shuffle_window=2)


@pytest.mark.parametrize(("keeps", "held_bytes"), [(True, 2**30), (True, 0), (False, 2**30)])
def test_damaged_blocks_are_not_fetched_again_for_each_row_of_them(
    keeps: bool, held_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("data_pipeline.read.loader.HELD_BYTES", held_bytes)
    store = a_store()
    for shard in (0, 1):
        flip(store, token=40_000, shard=shard)
    store.objects["datasets/tiny/shards/1.bin"] = store.objects["datasets/tiny/shards/1.bin"][:-PAGE_BYTES]
    batches = read(store, tmp_path, BLOCKS, keeps=keeps)
    assert 30 < sum(batch.num_unread for batch in batches) < 80
    size_bytes = sum(shard.size_bytes for shard in store.manifest.shards)
    assert sum(store.reads) < 4 * size_bytes, "each block once, and what is wrong in it again, by each of two threads at most"


def test_pages_that_are_read_alone_are_not_fetched_again_once_they_are_known_to_be_damaged(tmp_path: Path):
    store = a_store()
    read(store, tmp_path)
    num_reads = len(store.reads)
    flip(store, token=40_000)
    assert sum(batch.num_unread for batch in read(store, tmp_path)) > 10
    assert len(store.reads) - num_reads < num_reads


def test_a_shard_that_is_restored_before_its_rows_are_needed_ends_no_run(tmp_path: Path):
    store = a_store()
    flip(store, token=40_000)
    config = replace(BLOCKS, on_corrupt="fail")
    loader = build_loader(manifests=(store.manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=ROWS)
    with closing(loader):
        pages, block = loader.readers[SEQ_LEN][0].wanted(0)
        with pytest.raises(ShardCorrupt):
            pages.block(block)  # ahead of its time
        flip(store, token=40_000)
        assert sum(loader.read(step).num_unread for step in range(1, NUM_STEPS + 1)) == 0
