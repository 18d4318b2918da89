"""A corpus larger than the cache is read through it, by processes that share it and may be killed."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import SMALLEST_CACHE, DataConfig
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.order.blocks import BLOCK_TOKENS
from data_pipeline.read.ahead import NUM_READS
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.store.local import LocalStore
from tests.data_pipeline.datasets import put_dataset

STEPS, KILLED_AT = range(1, 201), 80
BATCH_ROWS, SEQ_LEN = 8, 2**16
SHARD_TOKENS = [20 * BLOCK_TOKENS + 1] * 6
"""240 MiB of uint16: more than twice the cache."""
BLOCK_BYTES = 2 * BLOCK_TOKENS + 2**15


HOUR_STEPS, SMALL_BATCH, SMALL_ROW = 12_000, 2, 2**13
"""What a model trains in an hour that takes 0.3 s a step, in rows that make it quick to read."""


def load(
    root: Path,
    cache: Path,
    *,
    rank: int = 0,
    num_ranks: int = 2,
    batch_rows: int = BATCH_ROWS,
    seq_len: int = SEQ_LEN,
    keeps_blocks: bool = True,
) -> Loader:
    store = LocalStore(root)
    return build_loader(
        manifests=(load_manifest(store, "tiny"),),
        config=DataConfig(dataset="tiny", seq_len=seq_len, shuffle="blocks", shuffle_window=2, cache_limit=SMALLEST_CACHE),
        store=store,
        cache_dir=cache,
        batch_rows=batch_rows,
        dp_rank=rank,
        dp_size=num_ranks,
        keeps_blocks=keeps_blocks,
    )


def read_what_is_asked(root: Path, cache: Path, pipe: Connection) -> None:
    with closing(load(root, cache, rank=1)) as loader:
        for step in iter(pipe.recv, 0):
            pipe.send(loader.batch(step).hashes)


def start_another(root: Path, cache: Path) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=read_what_is_asked, args=(root, cache, its), daemon=True)
    process.start()
    its.close()
    return process, ours


def size_of(directory: Path) -> int:
    """A file that gets its last name meanwhile counts once."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                there = os.stat(entry.path)
                found[there.st_ino] = there.st_size
    return sum(found.values())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with the corpus."""
    numbers = np.random.default_rng(1)
    put_dataset(LocalStore(tmp_path / "store"), *(numbers.integers(1, 1000, size, np.uint16) for size in SHARD_TOKENS))  # type: ignore[arg-type]
    return tmp_path / "store"


def test_an_hour_of_steps_goes_through_a_small_cache_within_its_bound_and_reads_every_block_once(root: Path, tmp_path: Path):
    cache, most = tmp_path / "cache", 0
    with (
        closing(load(root, cache, num_ranks=1, batch_rows=SMALL_BATCH, seq_len=SMALL_ROW)) as loader,
        closing(load(root, tmp_path / "none", num_ranks=1, batch_rows=SMALL_BATCH, seq_len=SMALL_ROW, keeps_blocks=False)) as alone,
    ):
        for step in range(1, HOUR_STEPS + 1):
            batch = loader.batch(step)
            if step % 500 == 0:
                assert batch.hashes == alone.batch(step).hashes
            if step % 8 == 0:
                most = max(most, size_of(cache))
        traffic = loader.traffic
    assert SMALLEST_CACHE / 2 < most <= SMALLEST_CACHE + (NUM_READS + 1) * BLOCK_BYTES, "it fills, and keeps its bound"
    assert traffic.used >= HOUR_STEPS * SMALL_BATCH * 2 * (SMALL_ROW + 1) > 3 * SMALLEST_CACHE
    assert traffic.fetched < 1.1 * traffic.used
    assert size_of(cache) <= SMALLEST_CACHE


def test_two_ranks_read_more_than_their_cache_holds_within_its_bound_though_one_is_killed(root: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    with closing(load(root, tmp_path / "none", num_ranks=1, keeps_blocks=False)) as alone:
        expected = {step: alone.batch(step).hashes for step in STEPS}
    process, pipe = start_another(root, cache)
    with closing(load(root, cache)) as first:
        for step in STEPS:
            pipe.send(step)
            if step == KILLED_AT:
                process.kill()
                process.join()
                process, pipe = start_another(root, cache)
                pipe.send(step)
            assert first.batch(step).hashes + pipe.recv() == expected[step]
            assert size_of(cache) <= SMALLEST_CACHE + 2 * (NUM_READS + 1) * BLOCK_BYTES, "the bound, and a block for each read"
        assert first.traffic.fetched < 2 * first.traffic.used
    pipe.send(0)
    process.join()
    assert size_of(cache) <= SMALLEST_CACHE
    assert {path.suffix for path in cache.iterdir()} == {".block"}
