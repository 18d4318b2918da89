"""What `permutation.py` computes, of whole arrays at once and bit for bit the same. Pure.

Apart from it because numpy is not to be paid for by who only reads a configuration.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order.permutation import NUM_ROUNDS

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_NUMBERS = np.arange(NUM_ROUNDS, dtype=np.uint64)[:, None]
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
    images = np.empty(len(indices), np.int64)
    each = _words(keys)
    for first in range(0, len(indices), _CHUNK):
        part = slice(first, first + _CHUNK)
        images[part] = _permute(indices[part].astype(np.uint64), num_samples, each if len(each) == 1 else each[part]).view(np.int64)
    return images


def _permute(values: Words, num_samples: int, keys: Words) -> Words:
    half_bits = ((num_samples - 1).bit_length() + 1) // 2
    rounds = _finalize((keys + _NUMBERS) * _GOLDEN + _GOLDEN)
    images = _feistel(values, half_bits, rounds)
    outside = np.flatnonzero(images >= num_samples)
    while len(outside):
        images[outside] = walked = _feistel(images[outside], half_bits, rounds if len(keys) == 1 else rounds[:, outside])
        outside = outside[walked >= num_samples]
    return images


def _feistel(values: Words, half_bits: int, rounds: Words) -> Words:
    half, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> half, values & mask
    mixed, shifted = np.empty_like(left), np.empty_like(left)
    for key in rounds:
        np.multiply(right, _GOLDEN, out=mixed)
        mixed ^= key
        _finalize(mixed, shifted)
        mixed &= mask
        left ^= mixed
        left, right = right, left
    left <<= half
    left |= right
    return left


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
