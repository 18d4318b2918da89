from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.sample_table import TokenRange, cut_samples


def test_samples_start_every_t_tokens_and_never_cross_shards() -> None:
    table = cut_samples([9, 2, 0, 13], seq_len=4)
    assert table.num_samples == 2 + 0 + 0 + 3
    assert [(found.shard, found.start) for found in map(table.locate, range(5))] == [(0, 0), (0, 4), (3, 0), (3, 4), (3, 8)]


def test_no_shards_and_short_ones_hold_no_sample() -> None:
    assert cut_samples([], seq_len=4).num_samples == 0
    assert cut_samples([4, 0, 1], seq_len=4).num_samples == 0


@given(shard_tokens=st.lists(st.integers(0, 60), max_size=6), seq_len=st.integers(1, 9))
def test_samples_cover_each_shard_once_but_for_its_last_tokens(shard_tokens: list[int], seq_len: int) -> None:
    table = cut_samples(shard_tokens, seq_len=seq_len)
    expected = [
        TokenRange(shard=shard, start=start, length=seq_len + 1)
        for shard, num_tokens in enumerate(shard_tokens)
        for start in range(0, num_tokens - seq_len, seq_len)
    ]
    assert [table.locate(index) for index in range(table.num_samples)] == expected
