import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.permutation import permute


@given(num_samples=st.integers(1, 400), key=st.integers(0, 2**63 - 1))
def test_every_index_is_hit_exactly_once(num_samples: int, key: int) -> None:
    assert sorted(permute(index, num_samples=num_samples, key=key) for index in range(num_samples)) == list(range(num_samples))


def test_an_order_looks_random() -> None:
    num_samples = 10_000
    order = [permute(index, num_samples=num_samples, key=1) for index in range(num_samples)]
    ascents = sum(left < right for left, right in itertools.pairwise(order))
    fixed_points = sum(index == place for index, place in enumerate(order))
    halves = sum(place < num_samples // 2 for place in order[: num_samples // 2])
    assert abs(ascents - num_samples / 2) < 200  # seven standard deviations
    assert fixed_points < 10
    assert abs(halves - num_samples / 4) < 200


def test_an_index_outside_is_refused() -> None:
    for index in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            permute(index, num_samples=10, key=0)
