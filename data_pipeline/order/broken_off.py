"""What a change of seq_len leaves unread of each source: it goes on at a window or an epoch, not behind the last row. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_pipeline.order.phases import Stretch
from data_pipeline.order.plan import Plan, taken


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenOff:
    """Samples of one source that lie between its last row of one seq_len and its first of the next."""

    step: int
    """The first of the other seq_len."""
    source: int
    tokens: int
    next_epoch: int | None
    """The one that it goes on in, counted from 1; None where it goes on in the same, at the next window of blocks."""
    is_over: bool
    """Whether its cap leaves it nothing then."""


def broken_off(plan: Plan, num_steps: int) -> Iterator[BrokenOff]:
    """Of every change of seq_len in so many steps, and each source that still had samples and is wanted again."""
    step, position = 1, 0
    for number, (before, after) in enumerate(pairwise(plan.phases), start=1):
        step, position = step + before.steps, position + before.steps * before.batch_rows
        if step > min(num_steps, plan.exhausted_at or num_steps):
            return
        if after.seq_len != before.seq_len:
            stretch = [one for one in plan.course.stretches if one.segment.start < position][-1]
            for found in _at(plan, step, stretch, position):
                if any(phase.ratios[found.source] for phase in plan.phases[number:]):
                    yield found


def _at(plan: Plan, step: int, stretch: Stretch, position: int) -> Iterator[BrokenOff]:
    """Where a stretch ends at a position, since seq_len changes."""
    segment, lanes = stretch.segment, plan.order.lanes
    shuffles = plan.shuffles[stretch.seq_len]
    sizes = np.array([shuffle.table.num_samples for shuffle in shuffles])
    read = segment.counts_after(0).sum(axis=0) + taken(stretch, position, sizes)[0]
    most = segment.counts_after(-(-(position - segment.start) // segment.slots)).max(axis=0)
    for source, shuffle in enumerate(shuffles):
        size, first, cap = int(sizes[source]), stretch.firsts[source], plan.sources[source].max_epochs
        used = first + lanes * int(most[source])
        goes_on = shuffle.position_of(*shuffle.left_at(used))
        was_through = cap is not None and cap * size - used < lanes
        if goes_on - first > read[source] > 0 and not was_through:
            epoch, next_epoch = (used - 1) // size, goes_on // size
            yield BrokenOff(
                step=step,
                source=source,
                tokens=int(goes_on - first - read[source]) * stretch.seq_len,
                next_epoch=next_epoch + 1 if next_epoch > epoch else None,
                is_over=cap is not None and goes_on >= cap * size,
            )
