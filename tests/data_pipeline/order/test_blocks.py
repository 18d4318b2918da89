import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.blocks import cut_blocks
from data_pipeline.order.sample_table import cut_samples
from tests.data_pipeline.order.places import places_of

shards = st.lists(st.integers(0, 200), max_size=6)


@given(shard_tokens=shards, seq_len=st.integers(1, 9))
def test_there_are_the_samples_that_the_sample_table_finds(shard_tokens: list[int], seq_len: int) -> None:
    assert cut_blocks(shard_tokens, seq_len=seq_len).shard_ends.tolist() == list(cut_samples(shard_tokens, seq_len=seq_len).ends)


@given(shard_tokens=shards, seq_len=st.integers(1, 9), unit=st.integers(1, 3), block_tokens=st.integers(1, 60))
def test_every_sample_has_one_place(shard_tokens: list[int], seq_len: int, unit: int, block_tokens: int) -> None:
    table = cut_blocks(shard_tokens, seq_len=seq_len, unit_tokens=unit * seq_len, block_tokens=block_tokens)
    assert np.array_equal(np.sort(table.index_of(np.arange(table.num_samples))), np.arange(table.num_samples))


def test_blocks_begin_at_the_shards_beginning_and_then_gather_their_ends() -> None:
    table = cut_blocks([23, 9, 15], seq_len=2, block_tokens=8)  # 11, 4 and 7 samples, 4 to a block
    assert (table.block_samples, table.num_blocks) == (4, 5)
    assert table.index_of(np.arange(22)).reshape(-1, 2).tolist() == [
        *([0, 1], [2, 3], [4, 5], [6, 7]),
        *([11, 12], [13, 14]),
        *([15, 16], [17, 18]),
        *([8, 9], [10, 19]),
        [20, 21],
    ]


def test_a_sample_longer_than_a_block_is_one() -> None:
    table = cut_blocks([101, 50], seq_len=20, block_tokens=8)
    assert (table.block_samples, table.num_blocks, table.num_samples) == (1, 7, 7)


@given(shard_tokens=shards, block=st.sampled_from([8, 16, 64]))
def test_samples_of_every_length_have_the_same_blocks_where_their_unit_is_the_same(shard_tokens: list[int], block: int) -> None:
    def tokens_of_blocks(seq_len: int) -> list[set[tuple[int, int]]]:
        table = cut_blocks(shard_tokens, seq_len=seq_len, unit_tokens=8, block_tokens=block)
        indices = table.index_of(np.arange(table.num_blocks * table.block_samples))
        found = zip(*places_of(indices, shard_tokens, seq_len=seq_len), strict=True)
        tokens = [(int(shard), int(start) + number) for shard, start in found for number in range(seq_len)]
        return [set(tokens[first : first + block]) for first in range(0, len(tokens), block)]

    assert tokens_of_blocks(1) == tokens_of_blocks(2) == tokens_of_blocks(8)
