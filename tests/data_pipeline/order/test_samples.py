from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.permutation import permute
from data_pipeline.order.samples import (
    SampleRef,
    digest_of,
    digest_of_sums,
    digest_of_token_sums,
    epoch_and_offset,
    rows_of_rank,
    sample_at,
    sample_sums,
    token_sums,
)

seeds = st.integers(0, 2**63 - 1)


@given(num_samples=st.integers(1, 60), seed=seeds, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(num_samples: int, seed: int, epoch: int) -> None:
    first = epoch * num_samples
    samples = [sample_at(position, num_samples=num_samples, seed=seed) for position in range(first, first + num_samples)]
    assert {sample.epoch for sample in samples} == {epoch}
    assert sorted(sample.index for sample in samples) == list(range(num_samples))


@given(seed=seeds, epoch=st.integers(0, 100))
def test_epochs_and_seeds_differ_in_their_order(seed: int, epoch: int) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [sample_at(epoch * 100 + offset, num_samples=100, seed=seed).index for offset in range(100)]

    assert order(seed, epoch) != order(seed, epoch + 1)
    assert order(seed, epoch) != order((seed + 1) % 2**63, epoch)


def test_positions_go_through_epoch_after_epoch() -> None:
    assert [epoch_and_offset(position, num_samples=10) for position in (0, 9, 10, 24)] == [(0, 0), (0, 9), (1, 0), (2, 4)]


@given(rows_each=st.integers(1, 4), num_ranks=st.integers(1, 8))
def test_the_ranks_share_the_rows_of_a_step(rows_each: int, num_ranks: int) -> None:
    batch_rows = rows_each * num_ranks
    rows = [rows_of_rank(rank, num_ranks=num_ranks, batch_rows=batch_rows) for rank in range(num_ranks)]
    assert [len(own) for own in rows] == [rows_each] * num_ranks
    assert [row for own in rows for row in own] == list(range(batch_rows))


def test_the_order_never_changes_between_versions() -> None:
    assert [permute(index, num_samples=10, key=34521) for index in range(10)] == [9, 1, 6, 3, 2, 4, 0, 7, 8, 5]
    assert digest_of([SampleRef(0, 1), SampleRef(1, 0)]) == "db7f8e2aa97f8d230fc0a6c6d68184ecfee02f4bd2e94dcb331c0d3d54ca5fe8"


def test_a_digest_tells_order_epoch_and_index_apart() -> None:
    variants = [[(0, 1), (0, 2)], [(0, 2), (0, 1)], [(1, 1), (0, 2)], [(0, 1)], []]
    assert len({digest_of(SampleRef(*sample) for sample in variant) for variant in variants}) == len(variants)


def test_the_sums_of_the_ranks_add_up_to_the_steps_whatever_their_order() -> None:
    rows = [(position, sample_at(position, num_samples=10, seed=7)) for position in range(8, 16)]
    shares = [sample_sums(rows[4:]), sample_sums(rows[:1]), sample_sums(rows[1:4]), sample_sums([])]
    assert tuple(map(sum, zip(*shares, strict=True))) == sample_sums(rows) == sample_sums(reversed(rows))


def test_sums_tell_position_epoch_index_and_number_apart() -> None:
    variants = [
        [(0, (0, 1)), (1, (0, 2))],
        [(0, (0, 2)), (1, (0, 1))],
        [(0, (1, 1)), (1, (0, 2))],
        [(2, (0, 1)), (3, (0, 2))],
        [(0, (0, 1)), (0, (0, 1)), (1, (0, 2))],
        [(0, (0, 1))],
        [],
    ]
    rows = [[(position, SampleRef(*sample)) for position, sample in variant] for variant in variants]
    assert len({digest_of_sums(sample_sums(variant)) for variant in rows}) == len(variants)


def test_sums_of_a_million_rows_are_exact_in_float64() -> None:
    assert float((2**32 - 1) * 2**20) == (2**32 - 1) * 2**20
    assert all(0 <= part < 2 * 2**32 for part in sample_sums([(0, SampleRef(0, 1)), (1, SampleRef(0, 2))]))


def test_sums_and_their_digest_never_change_between_versions() -> None:
    """The digest is the sum of the hashes as numbers of 128 bits: a part carries over into the next, and the last carry is lost."""
    sums = sample_sums([(0, SampleRef(0, 1)), (1, SampleRef(1, 0))])
    assert sums == (5064753294, 4379718900, 2120910622, 4480421601)
    assert digest_of_sums(sums) == "sum:0b0dcee17e6a871f050d34f52de2008e"
    assert digest_of_sums((2**32 + 5, 2**32 - 1, 2**32 - 1, 2**32 - 1)) == "sum:00000000000000000000000000000005"


def test_the_token_sums_of_ranks_add_up_and_say_which_tokens_were_where() -> None:
    rows = [(position, 1000 + position) for position in range(8, 16)]
    shares = [token_sums(rows[4:]), token_sums(rows[:1]), token_sums(rows[1:4]), token_sums([])]
    assert tuple(map(sum, zip(*shares, strict=True))) == token_sums(rows) == token_sums(reversed(rows))
    swapped = [(8, 1009), (9, 1008), *rows[2:]]
    variants = [rows, swapped, rows[:-1], [*rows, rows[0]], [(8, 7), *rows[1:]], [(position + 8, tokens) for position, tokens in rows]]
    assert len({digest_of_token_sums(token_sums(variant)) for variant in variants}) == len(variants)
    assert all(0 <= part < 8 * 2**32 for part in token_sums(rows))
    assert digest_of_token_sums(token_sums([(0, 0), (1, 2**64 - 1)])) == "39dafec1cc2961ea"
