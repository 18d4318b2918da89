"""Blocks are in the cache before the batch that needs them."""

import os
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.config import DataConfig
from data_pipeline.read.ahead import NUM_READS, Ahead
from data_pipeline.read.file_systems import network_file_system
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.read.page_reader import Block
from data_pipeline.store.protocol import ObjectStore, StoreUnavailable
from tests.data_pipeline.datasets import put_dataset
from tests.fakes.memory_store import MemoryStore

SHARDS = ([number % 991 for number in range(60_000)], [number % 983 for number in range(50_000)])
SEQ_LEN = 100


def load(store: ObjectStore, directory: Path, *, keeps_blocks: bool = True) -> Loader:
    manifest = put_dataset(store, *SHARDS)
    config = DataConfig(seq_len=SEQ_LEN)
    return build_loader(
        manifests=(manifest,),
        config=config,
        store=store,
        cache_dir=directory,
        batch_rows=8,
        keeps_blocks=keeps_blocks,
    )


def test_batches_are_the_same_with_and_without_a_cache_and_each_byte_is_fetched_about_once(tmp_path: Path):
    steps = range(1, 1100 // 8)
    with closing(load(MemoryStore(), tmp_path / "none", keeps_blocks=False)) as direct:
        expected = [direct.batch(step).tokens_BT for step in steps]
    with closing(load(MemoryStore(), tmp_path / "cache")) as cached:
        assert all(torch.equal(cached.batch(step).tokens_BT, tokens) for step, tokens in zip(steps, expected, strict=True))
        traffic = cached.traffic
    assert traffic.used >= len(steps) * 8 * (SEQ_LEN + 1) * 2
    assert traffic.fetched < 2 * traffic.used
    assert direct.traffic.fetched > 10 * traffic.used, "a page for each sample"


LONG = [np.arange(16 * 2**20, dtype=np.uint32).astype(np.uint16) % 997 for _ in range(2)]


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_with_blocks_each_rank_fetches_what_it_reads_and_all_have_the_same_batches(num_ranks: int, tmp_path: Path):
    store, config = MemoryStore(), DataConfig(seq_len=2**13, shuffle="blocks", shuffle_window=2)
    manifest = put_dataset(store, *LONG)
    num_steps = 1000
    every = {}
    for rank in range(num_ranks):
        rows = range(rank * 4 // num_ranks, (rank + 1) * 4 // num_ranks)
        with closing(
            build_loader(
                manifests=(manifest,),
                config=config,
                store=store,
                cache_dir=tmp_path / str(rank),
                batch_rows=4,
                dp_rank=rank,
                dp_size=num_ranks,
                keeps_blocks=True,
            )
        ) as loader:
            for step in range(1, num_steps + 1):
                every |= {(step, row): found for row, found in zip(rows, loader.batch(step).hashes, strict=True)}
            traffic = loader.traffic
        assert traffic.fetched < 1.5 * traffic.used
    assert len(every) == num_steps * 4
    with closing(build_loader(manifests=(manifest,), config=config, store=store, cache_dir=tmp_path / "none", batch_rows=4)) as resumed:
        assert list(resumed.batch(100).hashes) == [every[100, row] for row in range(4)]


def test_a_rank_that_was_replaced_on_its_node_finds_the_blocks(tmp_path: Path):
    store = MemoryStore()
    with closing(load(store, tmp_path)) as first:
        expected = first.batch(3).tokens_BT
    with closing(load(store, tmp_path)) as second:
        assert torch.equal(second.batch(3).tokens_BT, expected)
    assert second.traffic.fetched == 0


class Slow:
    """Pages of a store that answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked: list[Block] = []
        self.most = threading.Semaphore(0)

    def has(self, block: Block) -> bool:
        return block.shard % 2 == 1

    def block(self, block: Block) -> bytes:
        self.asked.append(block)
        self.most.release()
        assert self.may_answer.wait(10)
        raise StoreUnavailable("away")


def test_many_reads_are_in_flight_at_once_and_what_is_here_is_not_read_again():
    pages = Slow()
    ahead = Ahead(wanted_at=lambda step: [(pages, Block(4 * step + number, range(1))) for number in range(4)])
    ahead.look_from(1)
    for _ in range(NUM_READS):
        assert pages.most.acquire(timeout=10)
    ahead.look_from(1)
    pages.may_answer.set()
    ahead.close()
    assert len(set(pages.asked)) == len(pages.asked) >= NUM_READS
    assert all(block.shard % 2 == 0 for block in pages.asked)


def test_a_step_that_can_not_be_looked_at_keeps_no_other_from_being_fetched():
    pages = Slow()
    pages.may_answer.set()

    def wanted_at(step: int) -> list[tuple[Slow, Block]]:
        if step == 3:
            raise StoreUnavailable("away")
        return [(pages, Block(2 * step, range(1)))]

    ahead = Ahead(wanted_at=wanted_at, num_blocks=4)
    with pytest.raises(StoreUnavailable):
        ahead.look_from(1)
    ahead.look_from(1)
    for _ in range(4):
        assert pages.most.acquire(timeout=10)
    ahead.close()
    assert sorted(block.shard // 2 for block in pages.asked) == [1, 2, 4, 5]


def test_the_network_is_no_disk_of_this_machine(tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(
        b"22 1 8:1 / / rw - ext4 /dev/root rw\n"
        b"23 22 0:30 / /home rw shared:1 - nfs4 server:/home rw\n"
        b"24 23 8:2 / /home/local\\040disk rw - xfs /dev/sdb rw\n"
        b"25 22 0:31 / /mnt/x rw - ext4 /dev/sdc rw\n"
        b"26 25 0:32 / /mnt/x rw - fuse.sshfs host: rw\n"
        b"27 22 0:33 / /mnt/\xc3\xbc\xc2\xa0\\134\\011x rw - nfs4 server:/x rw\n"
        b"28 22 0:34 / /mnt/\xff\x85 rw - lustre server:/x rw\n"
        b"29 22 0:35 / /mnt/bucket rw - fuse mountpoint-s3 rw\n"
        b"30 22 0:36 / /mnt/drive rw - fuse.rclone drive: rw\n"
    )
    for path, kind in {"/mnt/\u00fc\u00a0\\\tx/c": "nfs4", os.fsdecode(b"/mnt/\xff\x85/c"): "lustre", "/mnt/bucket": "fuse"}.items():
        assert network_file_system(Path(path), mounts=mounts) == kind
    kinds = {
        path: network_file_system(Path(path), mounts=mounts) for path in ("/home/me", "/home", "/home/local disk/a", "/homes", "/mnt/x/y")
    }
    assert kinds == {"/home/me": "nfs4", "/home": "nfs4", "/home/local disk/a": "", "/homes": "", "/mnt/x/y": "fuse.sshfs"}
    assert network_file_system(tmp_path, mounts=tmp_path / "none") == ""
