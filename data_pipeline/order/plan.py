"""What every row of every step of a run reads: a pure function of the recipe, the same for every world size. No state, no file.

With one source, one phase and the full shuffle this is the order of `samples.sample_at`, bit for bit.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from data_pipeline.order.blocks import BLOCK_TOKENS, BlockTable, blocks_of, cut_blocks
from data_pipeline.order.mixture import VERSION as MIXTURE_VERSION
from data_pipeline.order.mixture import split_slots, windows_of_round
from data_pipeline.order.permutation import mix
from data_pipeline.order.phases import Course, Phase, PhaseStep, Rules, Stretch, course_of, phase_step, step_of
from data_pipeline.order.shuffles import BlockShuffle, FullShuffle, Shuffle
from data_pipeline.order.vectors import Ints

VERSION = 1
"""Changes with whatever changes which samples a plan names."""
_CHUNK = 2**16
_ROWS_AT_ONCE = 2048


class Exhausted(ValueError):
    """There is nothing left to read: every source of a phase has reached its cap."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step}: every source has reached its max_epochs; end the run before it, add data, or raise max_epochs")
        self.step = step


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """The rows of one length that documents of a dataset are packed into."""

    shard_rows: Sequence[int]
    """How many each shard has."""
    window_rows: int
    """R, see `best_fit.py`."""
    digest: str
    """Of what says which documents each row has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One dataset of a mixture."""

    name: str
    shard_tokens: Sequence[int]
    max_epochs: int | None = None
    """How many epochs are read of it at most; one that is broken off for another seq_len counts (`broken_off.py`)."""
    packed: Mapping[int, PackedRows] = field(default_factory=dict)
    """By seq_len; none where samples are cut from shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What chooses the order, beside the data and the phases."""

    seed: int
    shuffle: str = "full"
    """`full` or `blocks`: see `shuffles.py`."""
    window: int = 32
    """W: blocks of a lane's window, for `blocks`."""
    turns: int = 64
    """Q: turns of a mixture's window."""
    lanes: int
    """L: rows that are kept apart; that of the largest batch, or more for a run that is to grow."""
    block_tokens: int = BLOCK_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """What rows read, an entry for each."""

    positions: Ints
    """In the run."""
    sources: Ints
    epochs: Ints
    indices: Ints
    """Of the samples in their source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Consumed:
    """What a run has read of one source."""

    samples: int
    tokens: int
    epochs: int
    """Begun."""
    repeated: int
    """Samples of epochs after the first."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """A run's order. Make it with `build_plan`."""

    order: Order
    sources: tuple[Source, ...]
    phases: tuple[Phase, ...]
    shuffles: dict[int, tuple[Shuffle, ...]]
    """The sources' by seq_len."""
    course: Course

    def table(self, source: int, seq_len: int) -> BlockTable:
        """Where the samples of a source lie."""
        return self.shuffles[seq_len][source].table

    @property
    def exhausted_at(self) -> int | None:
        """The first step that can't be filled."""
        return None if self.course.end is None else step_of(self.phases, self.course.end)

    def phase_at(self, step: int) -> Phase:
        """What a step of the run (the first is 1) consists of."""
        return self.phases[phase_step(self.phases, step).phase]

    def position(self, step: int) -> int:
        """That of the first row of a step."""
        return phase_step(self.phases, step).position

    def capped_at(self, source: int) -> int | None:
        """The step in which nothing more is read of a source because it has reached its cap; None where that never comes."""
        for stretch in self.course.stretches:
            step = step_of(self.phases, stretch.segment.start)
            bounds = stretch.segment.bounds
            if self.phase_at(step).ratios[source] and bounds[source] == bounds[source + 1]:
                return step
        return self.exhausted_at if self.sources[source].max_epochs is not None else None

    def rows(self, step: int, rows: range) -> Rows:
        """What `rows` of the global batch of `step` read (the first is 1). Raises Exhausted."""
        at = phase_step(self.phases, step)
        if rows and not 0 <= min(rows[0], rows[-1]) <= max(rows[0], rows[-1]) < self.phases[at.phase].batch_rows:
            raise ValueError(f"rows={rows}: not rows of a batch of {self.phases[at.phase].batch_rows}")
        exhausted = self.exhausted_at
        if exhausted is not None and step >= exhausted:
            raise Exhausted(exhausted)
        before, after = self._neighbours(at, max(1, _ROWS_AT_ONCE // max(1, len(rows))))
        if exhausted is not None:
            after = min(after, exhausted - step)
        return _rows_of_steps(self, at.position - before * self.phases[at.phase].batch_rows, at.phase, before + after, rows)[before]

    def _neighbours(self, at: PhaseStep, num_steps: int) -> tuple[int, int]:
        """(steps before this one, steps from it on) of the `num_steps` that are told at once: they lie in one phase."""
        before = (at.step - 1) % num_steps
        is_last = at.phase == len(self.phases) - 1
        left = self.phases[at.phase].steps - at.step + 1
        return before, num_steps - before if is_last else min(num_steps - before, left)

    def consumed(self, step: int) -> tuple[Consumed, ...]:
        """What the steps up to `step` have read, for each source; 0: none. Raises Exhausted."""
        if self.exhausted_at is not None and step >= self.exhausted_at:
            raise Exhausted(self.exhausted_at)
        end = phase_step(self.phases, step + 1).position
        totals = np.zeros((4, len(self.sources)), np.int64)
        for number, stretch in enumerate(self.course.stretches):
            following = self.course.stretches[number + 1 : number + 2]
            until = min([end, *(other.segment.start for other in following)])
            if until > stretch.segment.start:
                sizes = np.array([shuffle.table.num_samples for shuffle in self.shuffles[stretch.seq_len]])
                samples, repeated, epochs = taken(stretch, until, sizes)
                totals[:2] += samples, samples * stretch.seq_len
                totals[2] = np.maximum(totals[2], epochs)
                totals[3] += repeated
        return tuple(Consumed(samples=s, tokens=t, epochs=e, repeated=r) for s, t, e, r in totals.T.tolist())

    def digest(self, step: int) -> str:
        """Of everything that the order up to `step` depends on, in hex: what a later phase, source or cap changes is not in it."""
        end = phase_step(self.phases, step + 1).position
        begun = self.phases[: phase_step(self.phases, max(1, step)).phase + 1]
        starts = accumulate((phase.steps for phase in begun[:-1]), initial=0)
        stretches = [_described(stretch) for stretch in self.course.stretches if stretch.segment.start < end]
        used = sorted({source for stretch in stretches for source in stretch["quotas"]})
        whole = {
            "version": VERSION,
            "order": asdict(self.order) | ({"unit": unit_tokens(self.phases)} if self.order.shuffle == "blocks" else {}),
            "batches": [[start, phase.batch_rows] for start, phase in zip(starts, begun, strict=True)],
            "stretches": stretches,
            "sources": {source: _digest_of_sizes(self.sources[source].shard_tokens) for source in used},
        }
        lengths = {stretch["seq_len"] for stretch in stretches}
        if packed := [[s, length, rows.digest] for s in used for length, rows in self.sources[s].packed.items() if length in lengths]:
            whole["packed"] = sorted(packed)
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def _rows_at(self, positions: Ints) -> Rows:
        starts = [stretch.segment.start for stretch in self.course.stretches]
        numbers = np.searchsorted(starts, positions, side="right") - 1
        found = np.empty((3, len(positions)), np.int64)
        for number, chosen in _groups(numbers, len(starts)):
            found[:, chosen] = self._samples(self.course.stretches[number], positions[chosen])
        return Rows(positions=positions, sources=found[0], epochs=found[1], indices=found[2])

    def _samples(self, stretch: Stretch, positions: Ints) -> tuple[Ints, Ints, Ints]:
        sources, counts = stretch.segment.choose(positions)
        offsets = np.array(stretch.firsts)[sources] + counts * self.order.lanes + positions % self.order.lanes
        epochs, indices = np.empty_like(offsets), np.empty_like(offsets)
        for source, chosen in _groups(sources, len(self.sources)):
            shuffle = self.shuffles[stretch.seq_len][source]
            epochs[chosen], within = np.divmod(offsets[chosen], shuffle.table.num_samples)
            indices[chosen] = shuffle.samples(within, epochs[chosen], seed=seed_of(self.order.seed, source))
        return sources, epochs, indices


@functools.lru_cache(maxsize=16)
def _rows_of_steps(plan: Plan, start: int, phase: int, num_steps: int, rows: range) -> tuple[Rows, ...]:
    """What `rows` of consecutive steps of a phase read, where the first step begins at a position.

    A rank has few rows: most of what one step alone would cost is calls of numpy. Several threads ask for the same steps.
    """
    steps = np.arange(num_steps)[:, None] * plan.phases[phase].batch_rows
    positions = start + steps + np.arange(rows.start, rows.stop, rows.step)
    found = plan._rows_at(positions.reshape(-1))
    shared = (array.reshape(positions.shape) for array in (found.positions, found.sources, found.epochs, found.indices))
    return tuple(Rows(positions=p, sources=s, epochs=e, indices=i) for p, s, e, i in zip(*shared, strict=True))


def _groups(numbers: Ints, num_groups: int) -> Iterator[tuple[int, slice | Ints]]:
    """Each number that occurs, and where; a slice where it is the only one."""
    occurs = np.flatnonzero(np.bincount(numbers, minlength=num_groups)).tolist()
    for number in occurs:
        yield number, slice(None) if len(occurs) == 1 else np.flatnonzero(numbers == number)


def build_plan(*, order: Order, sources: Sequence[Source], phases: Sequence[Phase]) -> Plan:
    """The order of a run. Raises ValueError, one line with the remedy, where it can't be."""
    _check(order, sources, phases)
    unit = unit_tokens(phases) if order.shuffle == "blocks" else None
    shuffles = {
        seq_len: tuple(_shuffle(source, seq_len, order=order, unit=unit) for source in sources)
        for seq_len in sorted({phase.seq_len for phase in phases})
    }
    caps = tuple(source.max_epochs for source in sources)
    rules = Rules(shuffles=shuffles, lanes=order.lanes, turns=order.turns, max_epochs=caps, seed=order.seed)
    return Plan(order=order, sources=tuple(sources), phases=tuple(phases), shuffles=shuffles, course=course_of(phases, rules))


def seed_of(seed: int, source: int) -> int:
    """The seed of a source's own order; the first has the run's, so that one alone is ordered as ever."""
    return mix(seed, source) if source else seed


def unit_tokens(phases: Sequence[Phase]) -> int:
    """U: the longest T, see `blocks.py`."""
    return max(phase.seq_len for phase in phases)


def _shuffle(source: Source, seq_len: int, *, order: Order, unit: int | None) -> Shuffle:
    if packed := source.packed.get(seq_len):
        table = blocks_of(np.array(packed.shard_rows, np.int64), seq_len=seq_len, block=packed.window_rows)
    else:
        table = cut_blocks(source.shard_tokens, seq_len=seq_len, unit_tokens=unit, block_tokens=order.block_tokens)
    if not table.num_samples:
        raise ValueError(f"source {source.name}: no shard has {seq_len + 1} tokens for a row; use a smaller seq_len, or leave it out")
    return FullShuffle(table) if order.shuffle == "full" else BlockShuffle(table, order.lanes, order.window, is_any_length=not packed)


def _check(order: Order, sources: Sequence[Source], phases: Sequence[Phase]) -> None:
    if order.shuffle not in ("full", "blocks"):
        raise ValueError(f"shuffle={order.shuffle!r}: use full or blocks")
    if not phases or not sources:
        raise ValueError("a plan needs a source and a phase; add them")
    if min(order.lanes, order.window, order.turns, order.block_tokens) < 1:
        raise ValueError(
            f"lanes={order.lanes}, window={order.window}, turns={order.turns}, block_tokens={order.block_tokens}: use 1 or more"
        )
    for source in sources:
        if source.max_epochs is not None and source.max_epochs < 1:
            raise ValueError(f"source {source.name}: max_epochs={source.max_epochs}: use 1 or more, or a ratio of 0")
    for number, phase in enumerate(phases, start=1):
        _check_phase(phase, f"phase {number}", order, sources)
        is_cut = not any(source.packed for source in sources)
        if order.shuffle == "blocks" and is_cut and unit_tokens(phases) % phase.seq_len:
            raise ValueError(
                f"phase {number}: seq_len={phase.seq_len} does not divide {unit_tokens(phases)}, the longest; change it or use shuffle=full"
            )


def _check_phase(phase: Phase, name: str, order: Order, sources: Sequence[Source]) -> None:
    if min(phase.steps, phase.batch_rows, phase.seq_len) < 1:
        raise ValueError(f"{name}: steps={phase.steps}, batch_rows={phase.batch_rows}, seq_len={phase.seq_len}: use 1 or more")
    if phase.batch_rows > order.lanes:
        raise ValueError(f"{name}: batch_rows={phase.batch_rows} is more than lanes={order.lanes}; use as many lanes")
    if len(phase.ratios) != len(sources) or min(phase.ratios) < 0 or not any(phase.ratios):
        raise ValueError(f"{name}: ratios={phase.ratios}: give each of {len(sources)} sources a ratio from 0, and one more than 0")
    slots = order.lanes * (order.turns if sum(ratio > 0 for ratio in phase.ratios) > 1 else 1)
    slots *= windows_of_round(slots, phase.ratios, lanes=order.lanes)
    quotas = split_slots(slots, phase.ratios, limits={}) or ()
    for source, ratio, quota in zip(sources, phase.ratios, quotas, strict=True):
        if ratio and not quota:
            raise ValueError(f"{name}: source {source.name} would get none of {slots:,} rows; raise its ratio, or leave it out")


def taken(stretch: Stretch, until: int, sizes: Ints) -> tuple[Ints, Ints, Ints]:
    """(samples, those of later epochs, epochs begun) of each source, read from the stretch's beginning to the position `until`."""
    segment, firsts = stretch.segment, np.array(stretch.firsts)
    lanes = np.arange(segment.lanes)[:, None]
    num_windows = (until - segment.start) // segment.slots
    before, after = (segment.counts_after(windows).astype(np.int64) for windows in (0, num_windows))
    first_repeated = -((firsts + lanes - sizes) // segment.lanes)
    samples, repeated = (after - before).sum(axis=0), np.maximum(0, after - np.maximum(before, first_repeated)).sum(axis=0)
    last = np.where(after > before, firsts + (after - 1) * segment.lanes + lanes, -1).max(axis=0)
    for first in range(segment.start + num_windows * segment.slots, until, _CHUNK):
        positions = np.arange(first, min(first + _CHUNK, until))
        sources, counts = segment.choose(positions)
        offsets = firsts[sources] + counts * segment.lanes + positions % segment.lanes
        samples += np.bincount(sources, minlength=len(sizes))
        repeated += np.bincount(sources[offsets >= sizes[sources]], minlength=len(sizes))
        np.maximum.at(last, sources, offsets)
    return samples, repeated, last // sizes + 1


def _described(stretch: Stretch) -> dict[str, Any]:
    quotas = np.diff(stretch.segment.bounds).tolist()
    return {
        "start": stretch.segment.start,
        "seq_len": stretch.seq_len,
        "turns": stretch.segment.turns,
        "quotas": {source: quota for source, quota in enumerate(quotas) if quota},
        "firsts": {source: stretch.firsts[source] for source, quota in enumerate(quotas) if quota},
    } | ({"mixture": MIXTURE_VERSION, "round": stretch.segment.round_windows} if stretch.segment.turns > 1 else {})


def _digest_of_sizes(shard_tokens: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(shard_tokens, "<i8").tobytes()).hexdigest()
