from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.config import DataConfig
from data_pipeline.dataset.plan import planned_samples
from data_pipeline.errors import DatasetTooSmall, ShardCorrupt, ShardMissing
from data_pipeline.order.sample_table import SampleTable
from data_pipeline.order.samples import digest_of_token_sums, token_sums
from data_pipeline.read.batch import document_offsets
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.read.row_hash import hashes_of_samples, row_hash, token_digests
from data_pipeline.store.protocol import ObjectStore, StoreUnavailable
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

SHARDS = (list(range(1, 100)), [0] * 5 + list(range(200, 260)))
SEQ_LEN = 4


def load(store: ObjectStore, cache_dir: Path, *, dp_rank: int = 0, dp_size: int = 1, seed: int = 3) -> Loader:
    manifest = put_dataset(store, *SHARDS)
    config = DataConfig(seq_len=SEQ_LEN, seed=seed)
    return build_loader(
        manifests=(manifest,), config=config, store=store, cache_dir=cache_dir, batch_rows=6, dp_rank=dp_rank, dp_size=dp_size
    )


def table_of(loader: Loader) -> SampleTable:
    return loader.readers[SEQ_LEN][0].table


def test_rows_are_the_planned_samples_and_labels_the_next_tokens(tmp_path: Path) -> None:
    with closing(load(MemoryStore(), tmp_path)) as loader:
        batch = loader.batch(5)
        samples = planned_samples(loader.plan, 5)
        for row, sample in enumerate(samples):
            found = table_of(loader).locate(sample.index)
            assert found.length == SEQ_LEN + 1
            expected = SHARDS[found.shard][found.start : found.start + SEQ_LEN + 1]
            assert batch.tokens_BT[row].tolist() == expected[:-1]
            assert batch.labels_BT[row].tolist() == expected[1:]
        assert batch.tokens_BT.dtype == batch.labels_BT.dtype == torch.int64
        assert batch.samples == samples


def test_an_epoch_holds_every_sample_once_whatever_the_number_of_ranks(tmp_path: Path) -> None:
    store = MemoryStore()
    with closing(load(store, tmp_path)) as alone:
        num_steps = -(-2 * table_of(alone).num_samples // 6)
        whole = [alone.batch(step).tokens_BT for step in range(1, num_steps + 1)]
        first_epoch = torch.cat(whole)[: table_of(alone).num_samples]
        everything = sorted(tokens[start : start + SEQ_LEN] for tokens in SHARDS for start in range(0, len(tokens) - SEQ_LEN, SEQ_LEN))
        assert sorted(first_epoch.tolist()) == everything
    for num_ranks in (2, 3):
        parts = []
        for rank in range(num_ranks):
            with closing(load(store, tmp_path, dp_rank=rank, dp_size=num_ranks)) as loader:
                parts.append([loader.batch(step).tokens_BT for step in range(1, num_steps + 1)])
        for step in range(num_steps):
            assert torch.equal(torch.cat([part[step] for part in parts]), whole[step])


def test_a_rank_names_the_samples_of_its_own_rows(tmp_path: Path) -> None:
    with closing(load(MemoryStore(), tmp_path, dp_rank=1, dp_size=3)) as loader:
        assert loader.batch(5).samples == planned_samples(loader.plan, 5)[2:4]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_batch_says_which_tokens_its_rows_have_and_the_shards_read_again_say_the_same(dtype: str, tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = put_dataset(store, *SHARDS, dtype=dtype)
    config = DataConfig(seq_len=SEQ_LEN, seed=3)
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=6)) as loader:
        batch, table = loader.batch(2), table_of(loader)
    rows = torch.cat([batch.tokens_BT, batch.labels_BT[:, -1:]], dim=1)
    assert batch.hashes == tuple(row_hash(row.numpy()) for row in rows)
    assert len(set(batch.hashes)) == 6
    again = hashes_of_samples([sample.index for sample in batch.samples], manifest=manifest, table=table, store=store)
    assert tuple(again[sample.index] for sample in batch.samples) == batch.hashes
    assert row_hash(np.arange(5)) == 0x4393F8E7C137D5FB  # what a ledger holds must be found again by later versions


def test_the_tokens_of_steps_are_told_from_the_dataset_as_the_ranks_tell_what_they_read(tmp_path: Path) -> None:
    store = MemoryStore()
    config, steps = DataConfig(seq_len=SEQ_LEN, seed=3), (1, 2, 5, 9)
    with closing(load(store, tmp_path)) as loader:
        hashes = {step: enumerate(loader.batch(step).hashes, loader.plan.position(step)) for step in steps}
    as_read = {step: digest_of_token_sums(token_sums(rows)) for step, rows in hashes.items()}
    assert token_digests(steps, manifests=(put_dataset(store, *SHARDS),), config=config, batch_rows=6, store=store) == as_read
    assert len(set(as_read.values())) == len(steps)


def test_resuming_is_asking_for_a_step(tmp_path: Path) -> None:
    store = MemoryStore()
    with closing(load(store, tmp_path)) as through, closing(load(store, tmp_path)) as resumed:
        batches = {step: through.batch(step) for step in range(1, 9)}
        for step in (7, 8, 2, 3):  # forwards and, after a fallback to an older checkpoint, backwards
            assert torch.equal(resumed.batch(step).tokens_BT, batches[step].tokens_BT)
            assert torch.equal(resumed.batch(step).labels_BT, batches[step].labels_BT)


def test_documents_start_with_rows_and_after_each_eos(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = put_dataset(store, [1, 2, 0, 4, 5, 6, 7, 0, 9, 0, 0, 12, 13])
    config = DataConfig(seq_len=4)
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=3)) as loader:
        batch = loader.batch(1)
        offsets = batch.document_offsets_P
        starts_with = {1: [0, 3], 5: [0], 9: [0, 2, 3]}  # by a row's first token; [5 6 7 0] ends with its eos
        expected = [4 * row + start for row in range(3) for start in starts_with[int(batch.tokens_BT[row, 0])]]
        assert offsets.tolist() == [*expected, 12]
        assert offsets.dtype == torch.int32


@pytest.mark.parametrize("last", [0, 7])
def test_the_offsets_of_documents_end_with_the_batch_whether_an_eos_does_or_not(last: int) -> None:
    assert document_offsets(np.array([[1, 0, 2], [3, 4, last]]) == 0).tolist() == [0, 2, 3, 6]


def test_where_documents_are_kept_apart_nothing_is_learnt_from_the_end_of_one(tmp_path: Path) -> None:
    """Not at the end of a row either; a document that goes on in the next row has all its labels."""
    store = MemoryStore()
    manifest = put_dataset(store, [1, 2, 0, 4, 5, 6, 7, 0, 9, 0, 0, 12, 13])
    config = DataConfig(seq_len=4, document_masking=True)
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=3)) as loader:
        batch = loader.batch(1)
        labels = {tokens[0]: found for tokens, found in zip(batch.tokens_BT.tolist(), batch.labels_BT.tolist(), strict=True)}
    assert labels == {1: [2, 0, -100, 5], 5: [6, 7, 0, -100], 9: [0, -100, -100, 13]}


def test_tokens_of_32_bits_are_read_as_they_are(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = put_dataset(store, [100_000, 65_536, 3, 70_000], dtype="uint32", vocab_size=100_278)
    config = DataConfig(seq_len=3)
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=1)) as loader:
        assert loader.batch(1).tokens_BT.tolist() == [[100_000, 65_536, 3]]
        assert loader.batch(1).labels_BT.tolist() == [[65_536, 3, 70_000]]


def test_the_next_steps_are_read_ahead(tmp_path: Path) -> None:
    with closing(load(MemoryStore(), tmp_path)) as loader:
        loader.batch(4)
        assert sorted(loader.pending) == [5, 6]
        loader.batch(9)
        assert sorted(loader.pending) == [10, 11]


def test_a_failure_while_reading_ahead_surfaces_at_the_step_that_needs_it(tmp_path: Path) -> None:
    store = MemoryStore()
    with closing(load(store, tmp_path)) as loader:
        good = loader.batch(1)
        assert good.tokens_BT.shape == (6, SEQ_LEN)
    failing = MemoryStore(objects=dict(store.objects))

    def unavailable(operation: str, key: str) -> None:
        if operation == "get_range":
            raise StoreUnavailable("the store is away")

    with closing(load(failing, tmp_path / "other")) as loader:
        failing.fault = unavailable
        with pytest.raises(StoreUnavailable, match="away"):
            loader.batch(1)
        failing.fault = lambda operation, key: None
        assert torch.equal(loader.batch(1).tokens_BT, good.tokens_BT)


def test_a_missing_or_wrong_shard_is_told_by_name(tmp_path: Path) -> None:
    store = MemoryStore()
    with closing(load(store, tmp_path)) as loader:
        for number in range(len(SHARDS)):
            store.delete(f"datasets/tiny/shards/{number}.bin")
        with pytest.raises(ShardMissing, match="datasets/tiny/shards"):
            loader.batch(1)
    manifest = put_dataset(store, [1, 2, 1000, 4, 5])  # the smallest token that there is not
    config = DataConfig(seq_len=4)
    with (
        closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=1)) as loader,
        pytest.raises(ShardCorrupt, match=r"token 1000 at 2, but vocab_size=1000"),
    ):
        loader.batch(1)


def test_closing_ends_the_thread(tmp_path: Path) -> None:
    loader = load(MemoryStore(), tmp_path)
    loader.batch(1)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        loader.batch(100)


def test_what_cant_be_loaded_is_refused_at_the_start(tmp_path: Path) -> None:
    store = MemoryStore()
    manifest = put_dataset(store, [1, 2, 3])
    for rank in (-1, 3):
        with pytest.raises(ValueError, match="dp_rank"):
            build_loader(
                manifests=(manifest,),
                config=DataConfig(seq_len=2),
                store=store,
                cache_dir=tmp_path,
                batch_rows=6,
                dp_rank=rank,
                dp_size=3,
            )
    with pytest.raises(DatasetTooSmall):
        build_loader(manifests=(manifest,), config=DataConfig(seq_len=3), store=store, cache_dir=tmp_path, batch_rows=6)
    with closing(load(store, tmp_path)) as loader, pytest.raises(ValueError, match="first step is 1"):
        loader.batch(0)
