"""Permutations of [0, n) chosen by a key, each image computed in O(1) without a table. Pure."""

NUM_ROUNDS = 6
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def permute(index: int, *, num_samples: int, key: int) -> int:
    """Where the permutation of [0, num_samples) chosen by `key` sends `index`.

    A Feistel network permutes the next larger power of four; walking its cycle until it is back in range permutes [0, num_samples),
    after fewer than four expected turns. Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
    """
    if not 0 <= index < num_samples:
        raise ValueError(f"index={index}: outside [0, {num_samples})")
    half_bits = ((num_samples - 1).bit_length() + 1) // 2
    index = _feistel(index, half_bits, key)
    while index >= num_samples:
        index = _feistel(index, half_bits, key)
    return index


def mix(key: int, value: int) -> int:
    """64 well-mixed bits of two integers: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), once over each."""
    mixed = _finalize(key * _GOLDEN + _GOLDEN)
    return _finalize(mixed ^ (value * _GOLDEN))


def _feistel(value: int, half_bits: int, key: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for round_index in range(NUM_ROUNDS):
        left, right = right, left ^ (mix(key + round_index, right) & mask)
    return left << half_bits | right


def _finalize(value: int) -> int:
    value &= _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
