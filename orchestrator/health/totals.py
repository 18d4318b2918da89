"""What an account comes to: seconds and GPU-seconds by class, and what each failure cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from orchestrator.control.state import Incident
from orchestrator.health.account import Account
from orchestrator.health.classes import CLASSES, CODES, TimeClass
from orchestrator.health.holdings import HELD, MISSING, SPARE, gpus_over

STOP = "stop"
"""The cause of what an end that was no failure cost: a person's stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What the failure of an attempt, or a person's stop, cost: steps that were discarded, and all until the next finished step."""

    attempt: int
    cause: str
    """See `control.causes`, or "stop"."""
    node: str | None
    machine: str | None
    took_s: float
    discarded_s: float
    """Of it: steps that had been executed."""
    gpu_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    wall_s: float
    classes_s: dict[TimeClass, float]
    """Together the wall clock."""
    gpu_s: dict[TimeClass, float]
    """GPU-seconds that were held meanwhile."""
    missing_gpu_s: float
    """Of GPUs that were waited for while others were held."""
    spare_gpu_s: float
    """Of GPUs that were kept in reserve."""
    losses: tuple[Loss, ...]

    @property
    def goodput(self) -> float | None:
        """The productive part of the time in which it was not stopped; None of a run without any."""
        return _ratio(self.classes_s[TimeClass.PRODUCTIVE], self.wall_s - self.classes_s[TimeClass.STOPPED])

    @property
    def ettr(self) -> float | None:
        """Effective training time ratio: the part of the time since it was first given nodes in which steps that count were executed."""
        trained_s = self.classes_s[TimeClass.PRODUCTIVE] + self.classes_s[TimeClass.SLOW]
        return _ratio(trained_s, self.wall_s - self.classes_s[TimeClass.STOPPED] - self.classes_s[TimeClass.QUEUED])


def totals_of(account: Account, incidents: Sequence[Incident]) -> Totals:
    """`incidents` are those of the run's state."""
    moments_s, gpus = gpus_over(account.timeline.moments)
    starts_s = np.union1d(account.starts_s, moments_s[moments_s < account.wall_s])
    spans = np.searchsorted(account.starts_s, starts_s, side="right") - 1
    codes, blames, lengths_s = account.codes[spans], account.blames[spans], np.diff(starts_s, append=account.wall_s)
    gpu_s = gpus[np.searchsorted(moments_s, starts_s, side="right") - 1] * lengths_s[:, None]
    held_s = np.bincount(codes, gpu_s[:, HELD], minlength=len(CLASSES))
    discarded_s = np.where(codes == CODES[TimeClass.LOST], lengths_s, 0.0)
    by_blame = [np.bincount(blames, weights) for weights in (lengths_s, discarded_s, gpu_s[:, HELD])]
    failed = {incident.attempt: incident for incident in incidents}
    return Totals(
        wall_s=account.wall_s,
        classes_s=account.classes_s,
        gpu_s={one: float(held_s[code]) for code, one in enumerate(CLASSES)},
        missing_gpu_s=float(gpu_s[:, MISSING].sum()),
        spare_gpu_s=float(gpu_s[:, SPARE].sum()),
        losses=tuple(
            _loss(attempt, failed.get(attempt), *map(float, its))
            for attempt, *its in zip(count(), *by_blame, strict=False)
            if attempt and its[0]
        ),
    )


def _loss(attempt: int, incident: Incident | None, took_s: float, discarded_s: float, gpu_s: float) -> Loss:
    return Loss(
        attempt=attempt,
        cause=incident.cause.value if incident else STOP,
        node=incident.node if incident else None,
        machine=incident.machine if incident else None,
        took_s=took_s,
        discarded_s=discarded_s,
        gpu_s=gpu_s,
    )


def _ratio(part_s: float, whole_s: float) -> float | None:
    return part_s / whole_s if whole_s > 1e-9 else None
