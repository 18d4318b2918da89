"""Random numbers that are a function of a key and an index, so that who needs some of them draws those alone, on any device."""

from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

CUT = 3.0
"""Where the normal distribution is cut off, in standard deviations."""
_SEGMENT_BITS = 12
_FRACTION_BITS = 24
"""As many as fp32 holds exactly."""
_GAMMA = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def bits_at(index: Tensor, key: int) -> Tensor:
    """64 random bits for each index, as int64: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), started at `key`."""
    bits = (index + 1).mul_(_signed(_GAMMA)).add_(_signed(key))
    for shift, factor in _ROUNDS:
        bits.bitwise_xor_(_shifted(bits, shift)).mul_(_signed(factor))
    return bits.bitwise_xor_(_shifted(bits, 31))


def uniform_at(index: Tensor, key: int) -> Tensor:
    """In [0, 1), fp64, one for each index."""
    return _shifted(bits_at(index, key), 11).double() * 2.0**-53


def normal_at(index: Tensor, key: int) -> Tensor:
    """Standard normal, cut off at three deviations, fp32, one for each index; bit for bit the same on every device.

    The inverse of its distribution function, linear between 4,097 quantiles: only operations that IEEE 754 rounds exactly, each by itself.
    """
    bits = bits_at(index, key)
    segment = _shifted(bits, 64 - _SEGMENT_BITS)
    fraction = (_shifted(bits, 64 - _SEGMENT_BITS - _FRACTION_BITS) & (2**_FRACTION_BITS - 1)).float().mul_(2.0**-_FRACTION_BITS)
    starts, widths = (table.to(index.device) for table in _quantiles())
    return fraction.mul_(widths.index_select(0, segment)).add_(starts.index_select(0, segment))


@cache
def _quantiles() -> tuple[Tensor, Tensor]:
    """Where each of the equally likely segments begins, and how wide it is."""
    normal, num_segments = NormalDist(), 2**_SEGMENT_BITS
    low, high = normal.cdf(-CUT), normal.cdf(CUT)
    inner = [normal.inv_cdf(low + (high - low) * part / num_segments) for part in range(1, num_segments)]
    points = torch.tensor([-CUT, *inner, CUT], dtype=torch.float64)
    return points[:-1].float(), points.diff().float()


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right, filled up with zeros; torch's own shift keeps the sign."""
    return (bits >> by) & (2 ** (64 - by) - 1)


def _signed(bits: int) -> int:
    """The int64 with these 64 bits."""
    return (bits + 2**63) % 2**64 - 2**63
