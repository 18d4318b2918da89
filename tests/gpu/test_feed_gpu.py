"""Batches come to the GPU beside what it computes, and the host waits for nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from data_pipeline.config import DataConfig
from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.loader import build_loader
from model.train.batch import Batch, build_batches
from orchestrator.worker.feed import Feed
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # torch calls its look for waits a prototype
]
CUDA = torch.device("cuda")
ABOUT_A_SECOND = 2 * 10**9
"""Cycles."""


def place(step: int, batch: TokenBatch) -> Sequence[Batch]:
    return build_batches(
        tokens_BT=batch.tokens_BT, labels_BT=batch.labels_BT, offsets_P=batch.document_offsets_P, micro_rows=2, mesh=None, device=CUDA
    )


def test_batches_are_there_while_the_gpu_is_still_at_the_step_before(tmp_path: Path):
    store = MemoryStore()
    manifest = put_dataset(store, [number % 997 for number in range(200_000)])
    config = DataConfig(seq_len=1024, document_masking=True)
    loader = build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path, batch_rows=4)
    with closing(loader), closing(Feed(loader, place=place, device=CUDA, last_step=6)) as feed:
        warm = [feed.batch(step) for step in range(1, 7)]  # who allocates memory waits for the GPU, once
        torch.cuda.synchronize()
        warm.clear()
        torch.cuda._sleep(ABOUT_A_SECOND)
        busy = torch.cuda.Event()
        busy.record()
        torch.cuda.set_sync_debug_mode("error")
        try:
            fed = {step: feed.batch(step) for step in range(1, 7)}
        finally:
            torch.cuda.set_sync_debug_mode("default")
        while not all(one.copied is None or one.copied.query() for one in fed.values()):
            time.sleep(0.001)
        assert not busy.query(), "the copies wait for what is computed"
        for step, one in fed.items():
            expected = loader.read(step)
            assert torch.equal(torch.cat([part.tokens_BT for part in one.micro_batches]).cpu(), expected.tokens_BT)
            assert torch.equal(torch.cat([part.labels_BT for part in one.micro_batches]).cpu(), expected.labels_BT)
