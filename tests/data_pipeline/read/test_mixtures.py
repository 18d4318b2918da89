"""Several datasets and phases as one stream of batches: the same for every number of ranks, and from every step on."""

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from data_pipeline.config import DataConfig, PhaseConfig, SourceConfig
from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.errors import DatasetTooSmall, OrderImpossible
from data_pipeline.order.samples import digest_of_token_sums, token_sums
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.read.row_hash import token_digests
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

SOURCES = (SourceConfig(dataset="web", ratio=3), SourceConfig(dataset="code", ratio=1))
PHASES = (PhaseConfig(steps=10, batch_rows=8), PhaseConfig(steps=7, ratios={"web": 1, "code": 1}), PhaseConfig(seq_len=32, micro_rows=1))
CONFIGS = {
    shuffle: DataConfig(seq_len=8, sources=SOURCES, phases=PHASES, shuffle=shuffle, shuffle_window=1)  # type: ignore[arg-type]
    for shuffle in ("full", "blocks")
}
STEPS = range(1, 25)


def put(store: MemoryStore) -> tuple[DatasetManifest, ...]:
    """Tokens of one are below 400, of the other above."""
    web = put_dataset(store, [1 + n % 399 for n in range(2000)], [1 + n % 199 for n in range(1500)], name="web")
    return web, put_dataset(store, [401 + n % 500 for n in range(900)], name="code")


def load(
    config: DataConfig, store: MemoryStore, directory: Path, *, dp_rank: int = 0, dp_size: int = 1, keeps_blocks: bool = False
) -> Loader:
    return build_loader(
        manifests=put(store),
        config=config,
        store=store,
        cache_dir=directory,
        batch_rows=16,
        dp_rank=dp_rank,
        dp_size=dp_size,
        keeps_blocks=keeps_blocks,
    )


@pytest.mark.parametrize("shuffle", CONFIGS)
def test_batches_are_the_same_for_every_number_of_ranks_and_every_step_that_is_resumed_from(shuffle: str, tmp_path: Path):
    config, store = CONFIGS[shuffle], MemoryStore()
    with closing(load(config, store, tmp_path)) as alone:
        whole = {step: alone.batch(step) for step in STEPS}
    assert [whole[step].tokens_BT.shape for step in (10, 11, 17, 18)] == [(8, 8), (16, 8), (16, 8), (16, 32)]
    for dp_size in (2, 4, 8):
        ranks = [load(config, store, tmp_path, dp_rank=rank, dp_size=dp_size, keeps_blocks=True) for rank in range(dp_size)]
        for step in STEPS:
            assert [row for rank in ranks for row in rank.batch(step).tokens_BT.tolist()] == whole[step].tokens_BT.tolist()
        for rank in ranks:
            rank.close()
    for first in (2, 10, 11, 17, 18, 19):
        with closing(load(config, store, tmp_path)) as resumed:
            assert all(resumed.batch(step).hashes == whole[step].hashes for step in STEPS if step >= first)


@pytest.mark.parametrize("shuffle", CONFIGS)
def test_rows_come_from_their_sources_in_the_ratios_of_the_phase_and_none_twice_in_an_epoch(shuffle: str, tmp_path: Path):
    with closing(load(CONFIGS[shuffle], MemoryStore(), tmp_path)) as loader:
        batches = {step: loader.batch(step) for step in range(1, 18)}
    rows = {step: Counter(sample.source for sample in batch.samples) for step, batch in batches.items()}
    assert abs(sum((rows[step] for step in range(1, 11)), Counter())[1] - 20) <= 8, "a quarter of 80, to a window"
    assert abs(sum((rows[step] for step in range(11, 18)), Counter())[1] - 56) <= 8, "half of 112, to a window"
    for batch in batches.values():
        for sample, tokens in zip(batch.samples, batch.tokens_BT, strict=True):
            assert (tokens > 400).all().item() == (sample.source == 1)
    samples = Counter(sample for batch in batches.values() for sample in batch.samples)
    assert set(samples.values()) == {1}


def test_what_was_trained_on_can_be_read_again(tmp_path: Path):
    config, store = CONFIGS["full"], MemoryStore()
    with closing(load(config, store, tmp_path)) as loader:
        read = {step: digest_of_token_sums(token_sums(enumerate(loader.batch(step).hashes, loader.plan.position(step)))) for step in STEPS}
    assert token_digests(STEPS, manifests=put(store), config=config, batch_rows=16, store=store) == read


def test_the_data_may_end_behind_the_last_step(tmp_path: Path):
    """What reads ahead comes to the end before training does."""
    capped = tuple(SourceConfig(dataset=one.dataset, ratio=one.ratio, max_epochs=1) for one in SOURCES)
    with closing(load(DataConfig(seq_len=8, sources=capped), MemoryStore(), tmp_path, keeps_blocks=True)) as loader:
        assert loader.plan.exhausted_at is not None
        for step in range(1, loader.plan.exhausted_at):
            assert len(loader.batch(step).samples) == 16
        with pytest.raises(ValueError, match="has reached its max_epochs"):
            loader.batch(loader.plan.exhausted_at)


def test_a_mixture_that_has_no_order_is_one_line(tmp_path: Path):
    with pytest.raises(DatasetTooSmall, match="the longest shard of dataset code"):
        load(DataConfig(seq_len=1000, sources=SOURCES), MemoryStore(), tmp_path)
    phases = (PhaseConfig(steps=1), PhaseConfig(seq_len=12))
    with pytest.raises(OrderImpossible, match="does not divide 12, the longest"):
        load(DataConfig(seq_len=8, sources=SOURCES, shuffle="blocks", phases=phases), MemoryStore(), tmp_path)
