"""Random numbers by their place: the published generator, the right distributions, and any part of them the same as in the whole."""

import math

import torch
from torch import Tensor

from model.weights.counters import CUT, bits_at, normal_at, uniform_at

MANY = torch.arange(1_000_000)


def _distance_from(numbers: Tensor, distribution: Tensor) -> float:
    """Kolmogorov's: how far the share of numbers below each of them is from what it should be there, at most; times √n."""
    shares = torch.arange(1, len(numbers) + 1) / len(numbers)
    return float((shares - distribution).abs().max()) * math.sqrt(len(numbers))


def test_the_bits_are_those_of_splitmix64() -> None:
    """The first numbers of its authors' own program for the seeds 0 and 1234567."""
    found = {seed: [bits % 2**64 for bits in bits_at(torch.arange(3), seed).tolist()] for seed in (0, 1234567)}
    assert found[0] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert found[1234567] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_part_is_as_in_the_whole_however_it_is_asked_for() -> None:
    some = torch.tensor([999_999, 3, 2**40, 512])
    assert torch.equal(normal_at(some, 7), torch.cat([normal_at(one[None], 7) for one in some]))
    assert torch.equal(normal_at(MANY, 7)[some[:2]], normal_at(some[:2], 7))


def test_normal_numbers_have_the_distribution_that_is_cut_off() -> None:
    numbers = normal_at(MANY, 2**63 + 5).double().sort().values
    below = torch.special.ndtr(torch.tensor(-CUT, dtype=torch.float64))
    assert numbers.abs().max() <= CUT
    assert _distance_from(numbers, (torch.special.ndtr(numbers) - below) / (1 - 2 * below)) < 1.63  # 1 % of right generators exceed it


def test_uniform_numbers_are_uniform_and_below_one() -> None:
    numbers = uniform_at(MANY, 11).sort().values
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    assert _distance_from(numbers, numbers) < 1.63


def test_neighbours_and_keys_have_nothing_to_do_with_each_other() -> None:
    one, other = normal_at(MANY, 1), normal_at(MANY, 2)
    for shifted in (one.roll(1), one.roll(4096), other):
        assert abs(float((one * shifted).mean())) < 4e-3  # four standard errors
