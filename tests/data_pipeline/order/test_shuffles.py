import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.blocks import cut_blocks
from data_pipeline.order.samples import sample_at
from data_pipeline.order.shuffles import BlockShuffle, FullShuffle, Shuffle
from data_pipeline.order.vectors import Ints
from tests.data_pipeline.order.places import places_of

seeds = st.integers(0, 2**63 - 1)


def order_of(shuffle: Shuffle, epoch: int, *, seed: int) -> Ints:
    offsets = np.arange(shuffle.table.num_samples)
    return shuffle.samples(offsets, np.full_like(offsets, epoch), seed=seed)


def blocks_of(num_shards: int, samples_each: int, *, lanes: int, window: int, block: int = 8) -> BlockShuffle:
    return BlockShuffle(cut_blocks([samples_each + 1] * num_shards, seq_len=1, block_tokens=block), lanes, window)


@given(
    shard_tokens=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(lambda shards: max(shards) > 3),
    seq_len=st.integers(1, 3),
    block_tokens=st.integers(1, 16),
    lanes=st.integers(1, 7),
    window=st.integers(1, 4),
    seed=seeds,
    epoch=st.integers(0, 5),
)
def test_an_epoch_of_blocks_holds_every_sample_once(
    shard_tokens: list[int], seq_len: int, block_tokens: int, lanes: int, window: int, seed: int, epoch: int
) -> None:
    table = cut_blocks(shard_tokens, seq_len=seq_len, block_tokens=block_tokens)
    order = order_of(BlockShuffle(table, lanes, window), epoch, seed=seed)
    assert np.array_equal(np.sort(order), np.arange(table.num_samples))


@given(num_samples=st.integers(1, 60), seed=seeds, positions=st.lists(st.integers(0, 300), min_size=1))
def test_the_full_shuffle_is_the_order_of_single_samples(num_samples: int, seed: int, positions: list[int]) -> None:
    shuffle = FullShuffle(cut_blocks([num_samples + 1], seq_len=1))
    epochs, offsets = np.divmod(np.array(positions), num_samples)
    expected = [sample_at(position, num_samples=num_samples, seed=seed).index for position in positions]
    assert shuffle.samples(offsets, epochs, seed=seed).tolist() == expected


def test_a_lane_reads_its_window_of_blocks_before_the_next() -> None:
    shuffle = blocks_of(5, 320, lanes=4, window=3)  # 200 blocks of 8: 50 to each lane
    lane = order_of(shuffle, 0, seed=1)[2::4][: 50 * 8]
    windows = [set((lane[first : first + 24] // 8).tolist()) for first in range(0, len(lane), 24)]
    assert [len(window) for window in windows] == [3] * 16 + [2]
    assert sum(map(len, windows)) == len(set().union(*windows)) == 50
    assert sorted(lane[:24]) != lane[:24].tolist()


def test_blocks_and_the_samples_in_them_come_in_another_order_in_each_epoch_and_lane() -> None:
    shuffle = blocks_of(1, 8 * 16, lanes=2, window=4)
    orders = [order_of(shuffle, epoch, seed=seed).tolist() for epoch, seed in ((0, 1), (1, 1), (0, 2))]
    assert len({tuple(order) for order in orders}) == 3
    within = [tuple(index % 8 for index in orders[0][lane::2][first : first + 32]) for lane in (0, 1) for first in (0, 32)]
    assert len(set(within)) == 4


@pytest.mark.parametrize("shuffle", [blocks_of(4, 4096, lanes=16, window=8, block=16), FullShuffle(cut_blocks([16385], seq_len=1))])
def test_positions_and_samples_are_independent(shuffle: Shuffle) -> None:
    """Chi-square of 16 parts of the epoch against 16 parts of the data: 225 degrees of freedom, six deviations of 21 allowed.

    Blocks come whole: with 16 samples each, that many times as much is expected of them.
    """
    order = order_of(shuffle, 0, seed=34521)
    cells = np.bincount(np.arange(16384) // 1024 * 16 + order // 1024, minlength=256)
    chi_square = ((cells - 64) ** 2 / 64).sum()
    clumping = 16 if isinstance(shuffle, BlockShuffle) else 1
    assert 225 - 6 * 21 < chi_square / clumping < 225 + 6 * 21


@pytest.mark.parametrize("shuffle", [blocks_of(4, 4096, lanes=16, window=8, block=16), FullShuffle(cut_blocks([16385], seq_len=1))])
def test_neighbours_in_the_data_or_in_an_epoch_are_none_in_the_next(shuffle: Shuffle) -> None:
    pairs = [set(zip(order[:-1].tolist(), order[1:].tolist(), strict=True)) for order in (order_of(shuffle, e, seed=1) for e in (0, 1))]
    assert all(sum(abs(left - right) == 1 for left, right in epoch) < 20 for epoch in pairs)  # 2 expected
    assert len(pairs[0] & pairs[1]) < 10  # 1 expected
    lane = order_of(shuffle, 0, seed=1)[::16]
    assert np.mean(np.abs(np.diff(lane)) == 1) < 0.04  # of 128 samples of 8 blocks: 1/64


def test_a_quarter_of_the_rows_fetches_a_quarter_of_the_blocks() -> None:
    lanes, window, block = 64, 8, 16
    shuffle = blocks_of(8, 16 * 400, lanes=lanes, window=window, block=block)
    turns = 3 * window * block
    blocks = (order_of(shuffle, 0, seed=1)[: turns * lanes] // block).reshape(turns, lanes)
    for num_nodes in (4, 16):
        fetched = [len(np.unique(share)) for share in np.split(blocks, num_nodes, axis=1)]
        assert set(fetched) == {3 * window * lanes // num_nodes}
        assert sum(fetched) * block / blocks.size == 1


def test_the_order_of_blocks_never_changes_between_versions() -> None:
    shuffle = BlockShuffle(cut_blocks([41, 30, 18], seq_len=2, block_tokens=8), 2, 2)
    assert (shuffle.table.num_samples, shuffle.table.num_blocks, shuffle.num_dealt) == (42, 10, 40)
    assert order_of(shuffle, 1, seed=34521)[::2].tolist() == [
        12,
        13,
        7,
        4,
        14,
        6,
        5,
        15,
        17,
        30,
        28,
        31,
        19,
        18,
        16,
        29,
        22,
        21,
        23,
        20,
        33,
    ]


@given(seed=seeds, taken=st.integers(0, 130), lanes=st.integers(1, 3), window=st.integers(1, 3))
def test_longer_samples_go_on_at_the_next_window_with_blocks_not_begun(seed: int, taken: int, lanes: int, window: int) -> None:
    """40 blocks of 8 tokens in three shards, read as samples of 2 and then of 4."""
    shard_tokens = [161, 91, 73]
    tables = {seq_len: cut_blocks(shard_tokens, seq_len=seq_len, unit_tokens=4, block_tokens=8) for seq_len in (2, 4)}
    short, long = (BlockShuffle(tables[seq_len], lanes, window) for seq_len in (2, 4))

    def tokens(shuffle: BlockShuffle, offsets: Ints) -> set[tuple[int, int]]:
        shards, starts = places_of(shuffle.samples(offsets, np.zeros_like(offsets), seed=seed), shard_tokens, seq_len=shuffle.table.seq_len)
        return {
            (shard, start + n) for shard, start in zip(shards.tolist(), starts.tolist(), strict=True) for n in range(shuffle.table.seq_len)
        }

    first = long.position_of(*short.left_at(taken))
    assert first <= long.table.num_samples
    read, following = tokens(short, np.arange(taken)), tokens(long, np.arange(first, long.table.num_samples))
    assert not read & following
    lost = 160 + 90 + 72 - len(read) - len(following)
    assert first == long.table.num_samples or lost <= window * lanes * 8 + 8


def test_the_full_shuffle_begins_a_new_epoch_with_other_samples() -> None:
    short, long = (FullShuffle(cut_blocks([101], seq_len=seq_len)) for seq_len in (1, 4))
    assert [long.position_of(*short.left_at(taken)) for taken in (0, 1, 100, 101)] == [0, 25, 25, 50]
