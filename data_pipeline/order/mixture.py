"""Which source each turn of each lane reads, and how many of that source the lane read before. Pure, O(1) per turn, in integers.

A window is Q turns of all L lanes; a round is M windows. Every round has the same number of samples of each source: its quota, L * Q * M
split by the ratios, exact to one sample. In a window each lane has its share of the quota, rounded down or up: it adds a residue, of the
L * M that there are. Over the lanes of a window the shares make up that of a window, rounded down or up, and over a round the quota; over
L rounds each lane is rounded up as often (Hermite's identity). The order of a lane's Q turns is permuted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order.permutation import mix
from data_pipeline.order.vectors import Ints, mix_many, permute_many

Counts = NDArray[np.int64]
"""For each lane and source."""
VERSION = 2
"""Of mixtures; 1 had rounds of one window."""
MOST_RESIDUES = 2**16
_CANDIDATES = 64


def split_slots(num_slots: int, ratios: Sequence[int], *, limits: Mapping[int, int]) -> tuple[int, ...] | None:
    """`num_slots` by the ratios, exact to one: who has the largest remainder gets one more, the first of equals.

    No source gets more than its limit, and what it can't take is split among the others. None where all can't take as many.
    """
    quotas = [0] * len(ratios)
    open_sources = [source for source, ratio in enumerate(ratios) if ratio]
    while open_sources:
        left, whole = num_slots - sum(quotas), sum(ratios[source] for source in open_sources)
        shares = {source: divmod(left * ratios[source], whole) for source in open_sources}
        by_remainder = sorted(open_sources, key=lambda source: (-shares[source][1], source))
        num_more = left - sum(share for share, _ in shares.values())
        wanted = {source: shares[source][0] + (place < num_more) for place, source in enumerate(by_remainder)}
        over = [source for source in open_sources if wanted[source] > limits.get(source, wanted[source])]
        if not over:
            return tuple(wanted.get(source, quota) for source, quota in enumerate(quotas))
        for source in over:
            quotas[source] = limits[source]
        open_sources = [source for source in open_sources if source not in over]
    return None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """Consecutive positions of the run, from a window's beginning on, in which the quotas stay the same."""

    start: int
    """The first position; lane l has those with position % L == l."""
    turns: int
    """Q; 1 where there is one source, which needs no order."""
    key: int
    bounds: Ints
    """For each source, the sum of the quotas before its own; then L * Q * M."""
    stride: int
    """From a residue to the next one."""
    places: Ints
    """For each lane, the number of its residue in the first window."""
    extras: NDArray[np.int32]
    """For each residue's number and source, how many turns more than its bounds rounded down give it had for the residues before."""
    base: Counts
    """How many each lane read of each source before this segment, less its residue's `extras`."""

    @property
    def lanes(self) -> int:
        return len(self.base)

    @property
    def slots(self) -> int:
        """Positions of a window."""
        return self.lanes * self.turns

    @property
    def round_windows(self) -> int:
        """M."""
        return len(self.extras) // self.lanes

    def choose(self, positions: Ints) -> tuple[Ints, Ints]:
        """(source, how many of it the lane read before) of positions of this segment; the window's turns count in the order of sources."""
        lanes = positions % self.lanes
        windows, turns = np.divmod((positions - self.start) // self.lanes, self.turns)
        if self.turns > 1:
            turns = permute_many(turns, num_samples=self.turns, keys=mix_many(mix_many(self.key, lanes), windows))
        num_residues = len(self.extras)
        times, places = np.divmod(self.places[lanes] + windows, num_residues)
        residues = places * self.stride % num_residues
        sources = np.zeros_like(lanes)
        for bound in self.bounds[1:-1]:
            sources += turns >= (bound + residues) // num_residues
        first = (self.bounds[sources] + residues) // num_residues
        return sources, self._read(sources, lanes, windows, times, places) + turns - first

    def counts_after(self, num_windows: int) -> Counts:
        """How many each lane has read of each source after so many windows of this segment."""
        lanes, sources = np.arange(self.lanes)[:, None], np.arange(len(self.bounds) - 1)[None, :]
        times, places = np.divmod(self.places[lanes] + num_windows, len(self.extras))
        return self._read(sources, lanes, np.int64(num_windows), times, places).astype(np.int64)

    def _read(self, sources: Ints, lanes: Ints, windows: Ints | np.int64, times: Ints, places: Ints) -> Ints:
        """How many lanes have read of sources after so many windows: all residues so many times, and those before `places` once more."""
        whole, extra = (np.diff(part) for part in np.divmod(self.bounds, len(self.extras)))
        return self.base[lanes, sources] + windows * whole[sources] + times * extra[sources] + self.extras[places, sources]


def windows_of_round(window_slots: int, ratios: Sequence[int], *, lanes: int) -> int:
    """M: as many windows as the ratios split without a remainder, or as there are residues for."""
    whole = sum(ratios)
    exact = whole // math.gcd(whole, *(window_slots * ratio for ratio in ratios))
    return min(exact, max(1, MOST_RESIDUES // lanes))


def build_segment(*, start: int, turns: int, round_windows: int = 1, quotas: Sequence[int], before: Counts, seed: int) -> Segment:
    """A segment whose rounds have these quotas, which sum up to L * `turns` * `round_windows`."""
    lanes, num_residues = len(before), len(before) * round_windows
    bounds = np.concatenate([[0], np.cumsum(quotas)]).astype(np.int64)
    stride = _stride(num_residues, first=_stride(round_windows), step=round_windows)
    is_up = (stride * np.arange(num_residues) % num_residues)[:, None] >= num_residues - bounds % num_residues
    extras = np.zeros((num_residues, len(quotas)), np.int32)
    np.cumsum(np.diff(is_up.astype(np.int32), axis=1)[:-1], axis=0, out=extras[1:])
    places = _places(lanes, round_windows, stride)
    return Segment(
        start=start,
        turns=turns,
        key=mix(mix(seed, 0), start),
        bounds=bounds,
        stride=stride,
        places=places,
        extras=extras,
        base=before - extras[places],
    )


def _places(lanes: int, round_windows: int, stride: int) -> Ints:
    """M apart, as the residues of a window then are, and so that those of neighbouring lanes are a stride of the lanes' own apart."""
    return round_windows * (_stride(lanes) * pow(stride, -1, lanes) % lanes * np.arange(lanes) % lanes)


def num_windows_within(segment: Segment, limits: Mapping[int, int]) -> int | None:
    """How many windows no lane reads more of a source than its limit in; None where that is for ever."""
    quotas = np.diff(segment.bounds)
    limited = [source for source in limits if quotas[source]]
    if not limited:
        return None

    def fits(windows: int) -> bool:
        most = segment.counts_after(windows).max(axis=0)
        return all(most[source] <= limits[source] for source in limited)

    # in whole rounds, some lane reads at least the mean of all
    lowest = 0
    highest = (min(limits[source] * segment.lanes // int(quotas[source]) for source in limited) + 1) * segment.round_windows
    while highest - lowest > 1:
        middle = (lowest + highest) // 2
        lowest, highest = (middle, highest) if fits(middle) else (lowest, middle)
    return lowest


def _stride(number: int, *, first: int = 0, step: int = 1) -> int:
    """Prime to `number`, so that its multiples are all residues, and near its golden section, so that a few of them lie evenly already.

    It is `first` and a multiple of `step`. How evenly they lie is told by the largest term of its continued fraction.
    """
    nearest = max(0, round(number * 0.6180339887) - first) // step
    candidates = (first + step * (nearest + more) for more in range(_CANDIDATES))
    return min((one for one in candidates if math.gcd(one, number) == 1), key=lambda one: max(_terms(number, one)))


def _terms(number: int, stride: int) -> Iterator[int]:
    """Of the continued fraction of `number` / `stride`."""
    while stride:
        yield number // stride
        number, stride = stride, number % stride
