"""Batches come to the device one step early, and what somebody holds of them stays what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from data_pipeline.config import DataConfig
from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.store.protocol import StoreUnavailable
from model.train.batch import Batch, build_batches
from orchestrator.worker.feed import Feed
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

CPU = torch.device("cpu")
LAST_STEP = 6


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def loader(store: MemoryStore, tmp_path: Path) -> Iterator[Loader]:
    manifest = put_dataset(store, [number % 7 for number in range(100)])
    config = DataConfig(seq_len=4, document_masking=True)
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=4)) as loader:
        yield loader


def place(step: int, batch: TokenBatch) -> Sequence[Batch]:
    return build_batches(
        tokens_BT=batch.tokens_BT, labels_BT=batch.labels_BT, offsets_P=batch.document_offsets_P, micro_rows=2, mesh=None, device=CPU
    )


def test_a_step_gets_its_own_batch_whatever_was_asked_for_before(loader: Loader):
    with closing(Feed(loader, place=place, device=CPU, last_step=LAST_STEP)) as feed:
        for step in (1, 2, 3, 6, 2):
            fed, expected = feed.batch(step), loader.read(step)
            assert fed.batch.samples == expected.samples
            assert torch.equal(torch.cat([one.tokens_BT for one in fed.micro_batches]), expected.tokens_BT)
            assert torch.equal(torch.cat([one.labels_BT for one in fed.micro_batches]), expected.labels_BT)


def test_the_next_step_is_placed_before_it_is_asked_for_and_none_behind_the_last(loader: Loader):
    placed: list[int] = []

    def tell(step: int, batch: TokenBatch) -> Sequence[Batch]:
        placed.append(step)
        return place(step, batch)

    feed = Feed(loader, place=tell, device=CPU, last_step=LAST_STEP)
    feed.batch(1)
    feed.batch(2)
    assert placed[:2] == [1, 2]
    for step in range(3, LAST_STEP + 1):
        feed.batch(step)
    feed.close()
    assert placed == [*range(1, LAST_STEP + 1)]


def test_who_keeps_batches_keeps_their_tokens(loader: Loader):
    with closing(Feed(loader, place=place, device=CPU, last_step=LAST_STEP)) as feed:
        kept = [feed.batch(step) for step in range(1, LAST_STEP + 1)]
    for step, fed in enumerate(kept, start=1):
        assert torch.equal(fed.batch.tokens_BT, loader.read(step).tokens_BT)
        assert torch.equal(fed.micro_batches[0].tokens_BT, loader.read(step).tokens_BT[:2])


def test_what_went_wrong_early_is_told_at_its_step(store: MemoryStore, loader: Loader):
    def unavailable(operation: str, key: str) -> None:
        raise StoreUnavailable("the store is away")

    with closing(Feed(loader, place=place, device=CPU, last_step=LAST_STEP)) as feed:
        feed.batch(1)
        store.fault = unavailable
        with pytest.raises(StoreUnavailable, match="away"):
            [feed.batch(step) for step in range(2, LAST_STEP + 1)]
