"""Which samples a step trains on: a pure function of seed, step and batch size, the same for every world size. No state, no file, O(1).

The stream of samples has positions 0, 1, 2, …; one pass over all samples is an epoch, in an order of its own.
Steps are 1-based: step n takes positions [(n - 1) * batch_rows, n * batch_rows).
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

NUM_ROUNDS = 6
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class SampleRef:
    epoch: int
    index: int
    """In [0, num_samples)."""


def permute(index: int, *, num_samples: int, key: int) -> int:
    """Where the permutation of [0, num_samples) chosen by `key` sends `index`.

    A Feistel network permutes the next larger power of four; walking its cycle until it is back in range permutes [0, num_samples),
    after fewer than four expected turns. Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
    """
    if not 0 <= index < num_samples:
        raise ValueError(f"index={index}: outside [0, {num_samples})")
    half_bits = max(1, ((num_samples - 1).bit_length() + 1) // 2)
    index = _feistel(index, half_bits, key)
    while index >= num_samples:
        index = _feistel(index, half_bits, key)
    return index


def sample_at(position: int, *, num_samples: int, seed: int) -> SampleRef:
    """The sample at one position of the endless stream."""
    epoch, index = divmod(position, num_samples)
    return SampleRef(epoch, permute(index, num_samples=num_samples, key=_mix(seed, epoch)))


def samples_of_step(step: int, *, batch_rows: int, num_samples: int, seed: int) -> tuple[SampleRef, ...]:
    """The samples of all rows of the global batch of `step` (the first is 1)."""
    if step < 1:
        raise ValueError(f"step={step}: the first step is 1")
    first = (step - 1) * batch_rows
    return tuple(sample_at(position, num_samples=num_samples, seed=seed) for position in range(first, first + batch_rows))


def digest_of(samples: Iterable[SampleRef]) -> str:
    """SHA-256, in hex, over epoch and index of every sample, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(struct.pack("<QQ", sample.epoch, sample.index))
    return digest.hexdigest()


def _feistel(value: int, half_bits: int, key: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for round_index in range(NUM_ROUNDS):
        left, right = right, left ^ (_mix(key + round_index, right) & mask)
    return left << half_bits | right


def _mix(key: int, value: int) -> int:
    """64 well-mixed bits of two integers: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), once over each."""
    mixed = _finalize(key * _GOLDEN + _GOLDEN)
    return _finalize(mixed ^ (value * _GOLDEN))


def _finalize(value: int) -> int:
    value &= _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
