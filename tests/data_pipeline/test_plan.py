import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order.samples import SampleRef, digest_of, permute, sample_at, samples_of_step

seeds = st.integers(0, 2**63 - 1)


@settings(deadline=None)
@given(num_samples=st.integers(1, 400), key=seeds)
def test_every_index_is_hit_exactly_once(num_samples: int, key: int) -> None:
    assert sorted(permute(index, num_samples=num_samples, key=key) for index in range(num_samples)) == list(range(num_samples))


@settings(deadline=None)
@given(num_samples=st.integers(1, 60), seed=seeds, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(num_samples: int, seed: int, epoch: int) -> None:
    first = epoch * num_samples
    samples = [sample_at(position, num_samples=num_samples, seed=seed) for position in range(first, first + num_samples)]
    assert {sample.epoch for sample in samples} == {epoch}
    assert sorted(sample.index for sample in samples) == list(range(num_samples))


@settings(deadline=None)
@given(seed=seeds, epoch=st.integers(0, 100))
def test_epochs_and_seeds_differ_in_their_order(seed: int, epoch: int) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [sample_at(epoch * 100 + offset, num_samples=100, seed=seed).index for offset in range(100)]

    assert order(seed, epoch) != order(seed, epoch + 1)
    assert order(seed, epoch) != order((seed + 1) % 2**63, epoch)


@settings(deadline=None)
@given(
    seed=seeds,
    num_samples=st.integers(1, 1000),
    rows=st.integers(1, 8),
    larger=st.integers(2, 4),
    step=st.integers(1, 50),
)
def test_the_stream_is_the_same_however_it_is_cut_into_steps(seed: int, num_samples: int, rows: int, larger: int, step: int) -> None:
    large = samples_of_step(step, batch_rows=rows * larger, num_samples=num_samples, seed=seed)
    first_small = (step - 1) * larger + 1
    small = [samples_of_step(first_small + part, batch_rows=rows, num_samples=num_samples, seed=seed) for part in range(larger)]
    assert large == tuple(sample for part in small for sample in part)


def test_the_first_step_is_one_and_starts_at_the_first_position() -> None:
    assert samples_of_step(1, batch_rows=3, num_samples=10, seed=7) == tuple(sample_at(p, num_samples=10, seed=7) for p in range(3))
    with pytest.raises(ValueError, match="first step is 1"):
        samples_of_step(0, batch_rows=3, num_samples=10, seed=7)


def test_an_order_looks_random() -> None:
    num_samples = 10_000
    order = [permute(index, num_samples=num_samples, key=1) for index in range(num_samples)]
    ascents = sum(left < right for left, right in itertools.pairwise(order))
    fixed_points = sum(index == place for index, place in enumerate(order))
    halves = sum(place < num_samples // 2 for place in order[: num_samples // 2])
    assert abs(ascents - num_samples / 2) < 200  # seven standard deviations
    assert fixed_points < 10
    assert abs(halves - num_samples / 4) < 200


def test_the_order_never_changes_between_versions() -> None:
    assert [permute(index, num_samples=10, key=34521) for index in range(10)] == [9, 1, 6, 3, 2, 4, 0, 7, 8, 5]
    assert digest_of([SampleRef(0, 1), SampleRef(1, 0)]) == "db7f8e2aa97f8d230fc0a6c6d68184ecfee02f4bd2e94dcb331c0d3d54ca5fe8"


def test_a_digest_tells_order_epoch_and_index_apart() -> None:
    variants = [[(0, 1), (0, 2)], [(0, 2), (0, 1)], [(1, 1), (0, 2)], [(0, 1)], []]
    assert len({digest_of(SampleRef(*sample) for sample in variant) for variant in variants}) == len(variants)


def test_an_index_outside_is_refused() -> None:
    for index in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            permute(index, num_samples=10, key=0)
