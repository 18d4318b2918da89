"""Rows that documents are packed into, as ranks read them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.config import DataConfig, PhaseConfig, SourceConfig
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.plan import load_plan
from data_pipeline.errors import PackingMissing, ShardCorrupt
from data_pipeline.order.samples import SampleRef, digest_of_token_sums, token_sums
from data_pipeline.read.batch import NO_LABEL, TokenBatch, build_batch
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.read.row_hash import token_digests
from tests.data_pipeline.datasets import put_dataset
from tests.data_pipeline.packed import pack, shard_of
from tests.fakes.memory_store import MemoryStore

SEQ_LEN, ROWS = 64, 8
NUMBERS = np.random.default_rng(0)
LENGTHS = [NUMBERS.integers(1, 150, 120).tolist() for _ in range(3)]
SHARDS = [shard_of(lengths, first=1 + 10_000 * number) for number, lengths in enumerate(LENGTHS)]
CONFIG = DataConfig(dataset="tiny", seq_len=SEQ_LEN, packing="best_fit", seed=3)
SAMPLE = SampleRef(0, 0)
SHUFFLES = [CONFIG, replace(CONFIG, shuffle="blocks", shuffle_window=2)]


@dataclass(slots=True)
class World:
    store: MemoryStore
    manifest: DatasetManifest
    directory: Path

    def load(self, config: DataConfig = CONFIG, *, rank: int = 0, num_ranks: int = 1, keeps: bool = False) -> Loader:
        return build_loader(
            manifests=(self.manifest,),
            config=config,
            store=self.store,
            cache_dir=self.directory,
            batch_rows=ROWS,
            dp_rank=rank,
            dp_size=num_ranks,
            keeps_blocks=keeps,
        )

    def num_steps(self, config: DataConfig = CONFIG) -> int:
        plan = load_plan(self.store, [self.manifest], config, batch_rows=ROWS)
        return -(-plan.table(0, config.seq_len).num_samples // ROWS)

    def batches(self, config: DataConfig = CONFIG, **how: int | bool) -> Iterator[TokenBatch]:
        with closing(self.load(config, **how)) as loader:
            for step in range(1, self.num_steps(config) + 1):
                yield loader.batch(step)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("data_pipeline.order.best_fit.MOST_ROWS", 24)
    store = MemoryStore()
    manifest = put_dataset(store, *SHARDS, dtype="uint32", vocab_size=2**17)
    pack(store, manifest, SEQ_LEN)
    return World(store, manifest, tmp_path)


def learnt(batches: Iterator[TokenBatch], *, epoch: int = 0) -> list[tuple[int, int]]:
    """Each token that is asked for, and the one before it."""
    found = []
    for batch in batches:
        for sample, tokens, labels in zip(batch.samples, batch.tokens_BT.tolist(), batch.labels_BT.tolist(), strict=True):
            if sample.epoch == epoch:
                found += [(token, label) for token, label in zip(tokens, labels, strict=True) if label != NO_LABEL]
    return found


@pytest.mark.parametrize("config", SHUFFLES, ids=["full", "blocks"])
def test_in_an_epoch_every_token_of_every_document_is_asked_for_once_and_never_across_documents(world: World, config: DataConfig):
    expected = []
    for shard, lengths in zip(SHARDS, LENGTHS, strict=True):
        for document in np.split(np.array(shard), np.cumsum(lengths)[:-1]):
            expected += zip(document[:-1].tolist(), document[1:].tolist(), strict=True)
    assert sorted(learnt(world.batches(replace(config, document_masking=True)))) == sorted(expected)


@pytest.mark.parametrize("keeps", [False, True], ids=["from the store", "cached"])
@pytest.mark.parametrize("config", SHUFFLES, ids=["full", "blocks"])
def test_ranks_of_every_world_read_the_same_global_batches_from_any_step_on(world: World, config: DataConfig, keeps: bool):
    whole = list(world.batches(config))
    for num_ranks in (1, 2, 4, 8):
        parts = [list(world.batches(config, rank=rank, num_ranks=num_ranks, keeps=keeps)) for rank in range(num_ranks)]
        for step, batch in enumerate(whole):
            assert torch.equal(torch.cat([part[step].tokens_BT for part in parts]), batch.tokens_BT)
            assert torch.equal(torch.cat([part[step].labels_BT for part in parts]), batch.labels_BT)
            assert sum((part[step].hashes for part in parts), ()) == batch.hashes
    with closing(world.load(config, keeps=keeps)) as resumed:
        for step in (7, 8, 20):
            assert torch.equal(resumed.batch(step).tokens_BT, whole[step - 1].tokens_BT)


def test_who_reads_the_dataset_again_finds_the_same_hashes_padding_included(world: World):
    batches = list(world.batches())
    found = token_digests(range(1, len(batches) + 1), manifests=[world.manifest], config=CONFIG, batch_rows=ROWS, store=world.store)
    for step, batch in enumerate(batches, start=1):
        assert found[step] == digest_of_token_sums(token_sums(enumerate(batch.hashes, (step - 1) * ROWS)))
    assert any((batch.labels_BT == NO_LABEL).any() for batch in batches)


def test_what_is_left_of_a_row_is_eos_without_labels_and_one_document():
    batch = build_batch([SAMPLE] * 2, [np.array([5, 6, 0, 7, 0]), np.arange(1, 10)], seq_len=8, eos_id=0, document_masking=False)
    assert batch.tokens_BT.tolist() == [[5, 6, 0, 7, 0, 0, 0, 0], [*range(1, 9)]]
    assert batch.labels_BT.tolist() == [[6, 0, 7, 0, *[NO_LABEL] * 4], [*range(2, 10)]]
    assert batch.document_offsets_P.tolist() == [0, 3, 5, 8, 16]
    apart = build_batch([SAMPLE], [np.array([5, 6, 0, 7, 0])], seq_len=8, eos_id=0, document_masking=True)
    assert apart.labels_BT.tolist() == [[6, 0, NO_LABEL, 0, *[NO_LABEL] * 4]]
    last = build_batch([SAMPLE], [np.array([5, 6, 7, 0])], seq_len=4, eos_id=0, document_masking=False)
    assert (last.labels_BT.tolist(), last.document_offsets_P.tolist()) == ([[6, 7, 0, NO_LABEL]], [0, 4])


def test_padding_is_not_taken_for_repetition():
    rows = [np.array([5, 6, 7, 0]), np.array([5] * 40 + [0])]
    batch = build_batch([SAMPLE] * 2, rows, seq_len=100, eos_id=0, document_masking=False, repetition_filter=True)
    assert batch.num_repetitive == 1
    assert [bool((labels != NO_LABEL).any()) for labels in batch.labels_BT] == [True, False]


def test_a_plan_says_which_table_it_reads_and_a_dataset_that_is_not_packed_is_refused(world: World):
    def digest(config: DataConfig) -> str:
        return load_plan(world.store, [world.manifest], config, batch_rows=ROWS).digest(5)

    packed, cut = digest(CONFIG), digest(replace(CONFIG, packing="concat"))
    with pytest.raises(PackingMissing, match="run `braid data pack tiny --seq-len 32`"):
        digest(replace(CONFIG, seq_len=32))
    world.manifest = put_dataset(world.store, *[shard[::-1] for shard in SHARDS], dtype="uint32", vocab_size=2**17)
    pack(world.store, world.manifest, SEQ_LEN)
    assert len({packed, cut, digest(CONFIG)}) == 3
    assert digest(replace(CONFIG, packing="concat")) == cut, "which only knows how long shards are"


def test_with_other_rows_another_epoch_begins(world: World):
    pack(world.store, world.manifest, 100)
    config = replace(SHUFFLES[1], phases=(PhaseConfig(steps=5), PhaseConfig(seq_len=100)))
    with closing(world.load(config)) as loader:
        assert {sample.epoch for sample in loader.batch(5).samples} == {0}
        assert {sample.epoch for sample in loader.batch(6).samples} == {1}
        assert loader.batch(6).tokens_BT.shape == (ROWS, 100)


def test_rows_whose_table_is_damaged_end_the_run_or_are_left_out(world: World):
    table = next(key for key in sorted(world.store.objects) if "/packed/64/00001-" in key)
    damaged = bytearray(world.store.objects[table])
    damaged[-1] ^= 1
    world.store.objects[table] = bytes(damaged)
    with pytest.raises(ShardCorrupt, match=r"00001-.*are not what was packed; .* or leave its rows out with data\.on_corrupt=skip"):
        list(world.batches())
    skip = replace(CONFIG, on_corrupt="skip")
    batches = list(world.batches(skip))
    num_unread = sum(batch.num_unread for batch in batches)
    assert 0 < num_unread <= 24, "of its last window"
    steps = token_digests(range(1, len(batches) + 1), manifests=[world.manifest], config=skip, batch_rows=ROWS, store=world.store)
    assert steps.keys() == {step for step, batch in enumerate(batches, start=1) if not batch.num_unread}


@pytest.mark.parametrize("keeps", [False, True], ids=["from the store", "cached"])
def test_a_damaged_head_costs_two_reads_and_one_warning_however_many_rows_it_has(
    world: World, keeps: bool, caplog: pytest.LogCaptureFixture
):
    table = next(key for key in sorted(world.store.objects) if "/packed/64/00001-" in key)
    world.store.objects[table] = b"no" + world.store.objects[table][2:]
    asked = Counter[str]()
    world.store.fault = lambda _, key: asked.update([key])
    batches = list(world.batches(replace(CONFIG, on_corrupt="skip"), keeps=keeps))
    assert sum(batch.num_unread for batch in batches) > 24
    assert asked[table] == 2
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("are not what was packed; rows of this shard that can't be read are skipped")


def test_rows_whose_place_is_not_known_keep_nobody_from_fetching_the_others_ahead(world: World):
    table = next(key for key in sorted(world.store.objects) if "/packed/64/00001-" in key)
    world.store.objects[table] = b"no" + world.store.objects[table][2:]
    with closing(world.load(replace(CONFIG, on_corrupt="skip"), keeps=True)) as loader:
        loader.ahead.look_from(1)
        loader.batch(1)
        ahead = list(loader.ahead._needed_at.values())
    assert max(ahead) > 1, "which has rows of the other shards"


def test_a_mixture_of_packed_datasets_keeps_its_ratios(world: World):
    other = put_dataset(world.store, shard_of([20] * 900, first=90_000), name="other", dtype="uint32", vocab_size=2**17)
    pack(world.store, other, SEQ_LEN)
    config = replace(CONFIG, dataset="tiny", sources=(SourceConfig(dataset="tiny", ratio=3), SourceConfig(dataset="other", ratio=1)))
    loader = build_loader(manifests=(world.manifest, other), config=config, store=world.store, cache_dir=world.directory, batch_rows=ROWS)
    with closing(loader):
        samples = [sample for step in range(1, 65) for sample in loader.batch(step).samples]
    assert sum(sample.source for sample in samples) == 64 * ROWS // 4
