"""What `permutation.py` computes, of whole arrays at once and bit for bit the same. Pure.

Apart from it because numpy is not to be paid for by who only reads a configuration.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order.permutation import NUM_ROUNDS

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_ROUNDS = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64)[:, None] * _GOLDEN
_MASK = 2**64 - 1
_CHUNK = 16384
"""So many words at a time, so that what is being mixed stays in the processor's cache."""


def mix_many(keys: Words | int, values: Ints | Words | int) -> Words:
    """`mix` of each key and value; either may be one for all."""
    mixed = _finalize(_words(keys) * _GOLDEN + _GOLDEN)
    return _finalize(mixed ^ _words(values) * _GOLDEN)


def permute_many(indices: Ints, *, num_samples: int, keys: Words | int) -> Ints:
    """Where the permutation of [0, num_samples) that its key chooses sends each index: `permute`. One key for all, or one for each."""
    if len(indices) and (indices.min() < 0 or indices.max() >= num_samples):
        raise ValueError(f"indices between {indices.min()} and {indices.max()}: outside [0, {num_samples})")
    half_bits, each = ((num_samples - 1).bit_length() + 1) // 2, _words(keys)
    if len(each) == 1 and 1 << half_bits <= len(indices):
        return _walked(indices, num_samples, partial(_feistel_by_tables, half_bits, _tables(half_bits, _round_keys(each))))
    images = np.empty(len(indices), np.int64)
    for first in range(0, len(indices), _CHUNK):
        part = indices[first : first + _CHUNK]
        rounds = _round_keys(each if len(each) == 1 else each[first : first + _CHUNK])
        images[first : first + _CHUNK] = _walked(part, num_samples, partial(_feistel, half_bits, rounds))
    return images


def _walked(values: Ints, num_samples: int, network: Callable[[Ints, slice | Ints], Ints]) -> Ints:
    """Values as often through a network of permutations as brings them into [0, num_samples); it is told which of them it has.

    What is still outside may have all its 64 bits: it is compared without a sign.
    """
    images, end = network(values, slice(None)), np.uint64(num_samples)
    outside = (images.view(np.uint64) >= end).nonzero()[0]
    while len(outside):
        images[outside] = walked = network(images[outside], outside)
        outside = outside[walked.view(np.uint64) >= end]
    return images


def _feistel(half_bits: int, rounds: Words, values: Ints, chosen: slice | Ints) -> Ints:
    half, mask, words = np.uint64(half_bits), np.uint64((1 << half_bits) - 1), values.view(np.uint64)
    left, right = words >> half, words & mask
    mixed, shifted = np.empty_like(left), np.empty_like(left)
    for key in rounds if rounds.shape[1] == 1 else rounds[:, chosen]:
        np.multiply(right, _GOLDEN, out=mixed)
        mixed ^= key
        _finalize(mixed, shifted)
        mixed &= mask
        left ^= mixed
        left, right = right, left
    left <<= half
    left |= right
    return left.view(np.int64)


def _feistel_by_tables(half_bits: int, tables: Ints, values: Ints, _: slice | Ints) -> Ints:
    left, right = values >> half_bits, values & (1 << half_bits) - 1
    for table in tables:
        left, right = right, left ^ table[right]
    return left << half_bits | right


def _tables(half_bits: int, rounds: Words) -> Ints:
    """What each round makes of every half, where there is one key for all."""
    halves = np.arange(1 << half_bits, dtype=np.uint64)
    return (_finalize(halves * _GOLDEN ^ rounds) & halves[-1]).view(np.int64)


def _round_keys(keys: Words) -> Words:
    return _finalize(keys * _GOLDEN + _ROUNDS)


def _finalize(values: Words, shifted: Words | None = None) -> Words:
    """In place; `shifted` is overwritten too."""
    shifted = np.right_shift(values, _30, out=shifted)
    values ^= shifted
    values *= _FIRST
    np.right_shift(values, _27, out=shifted)
    values ^= shifted
    values *= _SECOND
    np.right_shift(values, _31, out=shifted)
    values ^= shifted
    return values


def _words(values: Ints | Words | int) -> Words:
    """Modulo 2^64, as an array of one where there is one."""
    if isinstance(values, int):
        return np.array([values & _MASK], np.uint64)
    return values.astype(np.uint64, copy=False)
