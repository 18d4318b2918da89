"""A corpus larger than the cache is read through it, by processes that share it and may be killed."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

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


def load(root: Path, cache: Path, *, rank: int = 0, num_ranks: int = 2) -> Loader:
    store = LocalStore(root)
    return build_loader(
        manifests=(load_manifest(store, "tiny"),),
        config=DataConfig(dataset="tiny", seq_len=SEQ_LEN, shuffle="blocks", shuffle_window=2, cache_limit=SMALLEST_CACHE),
        store=store,
        cache_dir=cache,
        batch_rows=BATCH_ROWS,
        dp_rank=rank,
        dp_size=num_ranks,
        keeps_blocks=num_ranks > 1,
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


def test_two_ranks_read_more_than_their_cache_holds_within_its_bound_though_one_is_killed(tmp_path: Path):
    root, cache = tmp_path / "store", tmp_path / "cache"
    numbers = np.random.default_rng(1)
    put_dataset(LocalStore(root), *(numbers.integers(1, 1000, size, np.uint16) for size in SHARD_TOKENS))  # type: ignore[arg-type]
    with closing(load(root, tmp_path / "none", num_ranks=1)) as alone:
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
