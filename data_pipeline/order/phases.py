"""A run as phases, and its positions as segments in which the order goes on undisturbed. Pure.

Positions count the rows of the run from 0, over all phases. Where the ratios change, a window of turns ends early: of each source up to
the rest of the window's quota is left unread. Where seq_len changes, every source goes on behind all that a lane has begun: with blocks at
the lanes' next window, or in a new epoch behind the last one; with the full shuffle in a new epoch, the rest of the old one being unread.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np

from data_pipeline.order.mixture import Counts, Segment, build_segment, num_windows_within, split_slots, windows_of_round
from data_pipeline.order.shuffles import Shuffle


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Consecutive steps of one shape and mixture."""

    steps: int
    """The last phase of a run goes on after them."""
    batch_rows: int
    seq_len: int
    ratios: tuple[int, ...]
    """For each source, its part of the rows, in any unit; 0: not in this phase."""


@dataclass(frozen=True, slots=True)
class PhaseStep:
    """Where a step of the run stands."""

    phase: int
    step: int
    """Counted from the phase's first, which is 1."""
    position: int
    """That of its first row."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stretch:
    """A segment, and where in their streams the sources' counts of it begin."""

    segment: Segment
    seq_len: int
    firsts: tuple[int, ...]
    """For each source, the position of its stream that count 0 of lane 0 reads, in samples of this length."""


def phase_step(phases: Sequence[Phase], step: int) -> PhaseStep:
    """The phase of a step of the run (the first is 1)."""
    if step < 1:
        raise ValueError(f"step={step}: the first step is 1")
    starts = [0, *accumulate(phase.steps for phase in phases[:-1])]
    number = bisect_right(starts, step - 1) - 1
    within = step - 1 - starts[number]
    rows = sum(phase.steps * phase.batch_rows for phase in phases[:number])
    return PhaseStep(number, within + 1, rows + within * phases[number].batch_rows)


def step_of(phases: Sequence[Phase], position: int) -> int:
    """The step of the run that has the row at a position."""
    steps = 0
    for phase in phases[:-1]:
        if position < phase.steps * phase.batch_rows:
            return steps + position // phase.batch_rows + 1
        steps, position = steps + phase.steps, position - phase.steps * phase.batch_rows
    return steps + position // phases[-1].batch_rows + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """A run in order."""

    stretches: tuple[Stretch, ...]
    end: int | None
    """The position from which on every source has reached its cap; None where that never comes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What the course of all phases is made by."""

    shuffles: Mapping[int, Sequence[Shuffle]]
    """The sources' by seq_len."""
    lanes: int
    turns: int
    """Q: turns of a window."""
    max_epochs: Sequence[int | None]
    """For each source, how many epochs are read of it at most."""
    seed: int

    def limits(self, seq_len: int, firsts: Sequence[int]) -> dict[int, int]:
        """How many samples a lane may read of each source that has a cap, where its stream goes on at `firsts`."""
        capped = zip(self.shuffles[seq_len], self.max_epochs, firsts, strict=True)
        return {
            source: max(0, most * shuffle.table.num_samples - first) // self.lanes
            for source, (shuffle, most, first) in enumerate(capped)
            if most is not None
        }

    def go_on(self, firsts: Sequence[int], counts: Counts, *, old: int, new: int) -> list[int]:
        """Where the sources' streams go on in samples of `new` tokens after those of `old`: behind all that any lane has begun."""
        used = [first + self.lanes * int(most) for first, most in zip(firsts, counts.max(axis=0), strict=True)]
        pairs = zip(self.shuffles[old], self.shuffles[new], used, strict=True)
        return [after.position_of(*before.left_at(position)) for before, after, position in pairs]


def course_of(phases: Sequence[Phase], rules: Rules) -> Course:
    """The segments of a run, each from its own first position to the next one's."""
    found: list[Stretch] = []
    counts, firsts = np.zeros((rules.lanes, len(rules.max_epochs)), np.int64), [0] * len(rules.max_epochs)
    start, seq_len = 0, phases[0].seq_len
    for new_len, ratios, end in _mixtures(phases):
        if new_len != seq_len:
            firsts, counts, seq_len = rules.go_on(firsts, counts, old=seq_len, new=new_len), np.zeros_like(counts), new_len
        limits = rules.limits(seq_len, firsts)
        while end is None or start < end:
            segment = _next_segment(ratios, start, counts, limits=limits, rules=rules)
            if segment is None:
                return Course(stretches=tuple(found), end=start)
            found.append(Stretch(segment=segment, seq_len=seq_len, firsts=tuple(firsts)))
            num_windows = num_windows_within(segment, limits)
            if end is not None:
                to_end = -(-(end - start) // segment.slots)
                num_windows = to_end if num_windows is None else min(to_end, num_windows)
            if num_windows is None:
                break
            counts, start = segment.counts_after(num_windows), start + num_windows * segment.slots
        start = end or start
    return Course(stretches=tuple(found), end=None)


def _mixtures(phases: Sequence[Phase]) -> Iterator[tuple[int, tuple[int, ...], int | None]]:
    """(seq_len, ratios, the position where they end) of consecutive phases that differ in their batches only. The last has no end."""
    ends = list(accumulate(phase.steps * phase.batch_rows for phase in phases))
    for (seq_len, ratios), group in groupby(range(len(phases)), key=lambda number: (phases[number].seq_len, phases[number].ratios)):
        last = max(group)
        yield seq_len, ratios, ends[last] if last < len(phases) - 1 else None


def _next_segment(ratios: Sequence[int], start: int, counts: Counts, *, limits: Mapping[int, int], rules: Rules) -> Segment | None:
    """From `start` on, by the ratios; a window alone where caps leave less than that. None where they leave too little to fill it."""
    most = counts.max(axis=0)
    left = {source: max(0, limit - int(most[source])) * rules.lanes for source, limit in limits.items()}
    open_ratios = [ratio if left.get(source, 1) else 0 for source, ratio in enumerate(ratios)]
    turns = rules.turns if sum(ratio > 0 for ratio in open_ratios) > 1 else 1
    if not any(open_ratios):
        return None

    def segment(round_windows: int, limits: Mapping[int, int]) -> Segment | None:
        quotas = split_slots(rules.lanes * turns * round_windows, open_ratios, limits=limits)
        if quotas is None:
            return None
        return build_segment(start=start, turns=turns, round_windows=round_windows, quotas=quotas, before=counts, seed=rules.seed)

    usual = segment(windows_of_round(rules.lanes * turns, open_ratios, lanes=rules.lanes), {})
    return usual if usual is None or num_windows_within(usual, limits) != 0 else segment(1, left)
