import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.permutation import mix, permute
from data_pipeline.order.vectors import mix_many, permute_many

words = st.integers(0, 2**64 - 1)


@given(num_samples=st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1)), key=words, data=st.data())
def test_many_are_permuted_as_each_alone(num_samples: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, num_samples - 1), max_size=30))
    images = permute_many(np.array(indices, np.int64), num_samples=num_samples, keys=key)
    assert images.tolist() == [permute(index, num_samples=num_samples, key=key) for index in indices]


def test_an_image_on_the_way_may_have_all_its_64_bits() -> None:
    num_samples = 2**62 + 1
    images = permute_many(np.arange(50), num_samples=num_samples, keys=0)
    assert images.tolist() == [permute(index, num_samples=num_samples, key=0) for index in range(50)]


@given(num_samples=st.integers(1, 300), pairs=st.lists(st.tuples(st.integers(0, 299), words), min_size=1, max_size=30))
def test_each_may_have_a_key_of_its_own(num_samples: int, pairs: list[tuple[int, int]]) -> None:
    indices = [index % num_samples for index, _ in pairs]
    keys = np.array([key for _, key in pairs], np.uint64)
    images = permute_many(np.array(indices, np.int64), num_samples=num_samples, keys=keys)
    assert images.tolist() == [permute(i, num_samples=num_samples, key=key) for i, (_, key) in zip(indices, pairs, strict=True)]


def test_more_than_are_mixed_at_once_are_permuted_the_same() -> None:
    keys = np.arange(20_000).astype(np.uint64)
    images = permute_many(np.arange(20_000), num_samples=20_000, keys=keys)
    assert [images[at] for at in (0, 16_383, 16_384, 19_999)] == [
        permute(at, num_samples=20_000, key=at) for at in (0, 16_383, 16_384, 19_999)
    ]
    assert np.array_equal(np.sort(permute_many(np.arange(20_000), num_samples=20_000, keys=5)), np.arange(20_000))


@given(pairs=st.lists(st.tuples(words, words), min_size=1, max_size=20))
def test_many_are_mixed_as_each_alone(pairs: list[tuple[int, int]]) -> None:
    keys, values = (np.array(column, np.uint64) for column in zip(*pairs, strict=True))
    assert mix_many(keys, values).tolist() == [mix(key, value) for key, value in pairs]
    assert mix_many(pairs[0][0], values).tolist() == [mix(pairs[0][0], value) for _, value in pairs]
    assert mix_many(keys, pairs[0][1]).tolist() == [mix(key, pairs[0][1]) for key, _ in pairs]


def test_indices_outside_are_refused() -> None:
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            permute_many(np.array([3, wrong]), num_samples=10, keys=0)
    assert permute_many(np.array([], np.int64), num_samples=10, keys=0).tolist() == []
