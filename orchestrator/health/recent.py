"""A run's newest numbers beside its own last 1,000, as one who looks at it now and then knows them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.config import RunConfig
from orchestrator.control.cluster import Observation, leader_of

KEPT = 1000
ENOUGH = 100
"""Below so many samples nothing is said of a range."""
NEWEST = 5
"""So many of the newest samples are judged, by their median: one step alone wakes nobody."""
LEAST_SPREAD = 0.005
"""Of the median: less than that is no spread but the same number again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """Samples of steps, the newest last; of a run whose steps are faster than the looks, some are missing."""

    attempt: int = 0
    step: int = 0
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float, ...] = ()
    tokens_per_s: tuple[float, ...] = ()
    """Since the last change of what a step consists of."""


NOTHING_KNOWN = Recent()


def after_look(recent: Recent, config: RunConfig, attempt: int, seen: Observation) -> Recent:
    """With the step that shows in `seen`, where it is another one than the last. Numbers that are not finite are no samples."""
    leader = leader_of(seen.agents_of(attempt))
    if leader is None or leader.metrics is None or (leader.step, attempt) == (recent.step, recent.attempt):
        return recent
    is_same_stage = recent.attempt > 0 and config.stage_at(max(1, recent.step)) == config.stage_at(max(1, leader.step))
    before = recent if is_same_stage else replace(recent, tokens_per_s=())
    speed = leader.tokens_per_s or 0.0
    return Recent(
        attempt=attempt,
        step=leader.step,
        losses=_with(before.losses, leader.metrics.loss if leader.metrics.is_finite else None),
        grad_norms=_with(before.grad_norms, leader.metrics.grad_norm if leader.metrics.is_finite else None),
        tokens_per_s=_with(before.tokens_per_s, speed if speed > 0 else None),
    )


def _with(samples: tuple[float, ...], sample: float | None) -> tuple[float, ...]:
    return samples if sample is None else (*samples[-KEPT + 1 :], sample)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Where a number is as a rule, and where it is now."""

    median: float
    spread: float
    """Half of the samples are within it of the median."""
    newest: float

    @property
    def spreads_above(self) -> float:
        return (self.newest - self.median) / self.spread


def range_of(samples: Sequence[float]) -> Range | None:
    """None where too little is known."""
    if len(samples) < ENOUGH:
        return None
    values = np.asarray(samples, dtype=np.float64)
    median = float(np.median(values))
    spread = float(np.median(np.abs(values - median)))
    return Range(
        median=median, spread=max(spread, LEAST_SPREAD * abs(median), np.finfo(np.float64).tiny), newest=float(np.median(values[-NEWEST:]))
    )


def usual_step_s(recent: Recent, config: RunConfig) -> float | None:
    """How long a step takes as a rule; None before the first few."""
    if len(recent.tokens_per_s) < NEWEST:
        return None
    return config.stage_at(max(1, recent.step)).tokens_per_step / float(np.median(recent.tokens_per_s))
