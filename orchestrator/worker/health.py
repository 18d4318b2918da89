"""Whether a run's numbers still lead anywhere, by what its last steps measured. No torch."""

from __future__ import annotations

import math

from model.optim.config import OptimizerConfig
from model.train.metrics import StepMetrics
from orchestrator.config import RecoveryConfig
from orchestrator.errors import Diverged

REMEDY = "lower optimizer.lr or lengthen its warmup, or look at the data of these steps"

MAX_EMPTY = 3
"""Steps in a row of whose rows none could be read, or each was left out."""


class Health:
    """Counts updates that were left out in a row. Ranks measure the same, so all of them end at the same step."""

    def __init__(self, recovery: RecoveryConfig, optimizer: OptimizerConfig) -> None:
        self._policy = recovery.on_nonfinite
        self._max_nonfinite = recovery.max_nonfinite if recovery.on_nonfinite == "skip" else 0
        self._max_skipped = max(2, optimizer.skip_window // 2)
        self._nonfinite = self._skipped = self._empty = 0

    def check(self, step: int, metrics: StepMetrics, *, is_last: bool) -> None:
        """Raises Diverged where too many updates in a row were left out, or one led to weights that make no number of held-out text.

        A run never ends on numbers that are not finite, and does not go on where step after step has nothing to learn.
        """
        self._nonfinite = 0 if metrics.is_finite else self._nonfinite + 1
        self._skipped = self._skipped + 1 if metrics.skipped else 0
        self._empty = 0 if metrics.tokens else self._empty + 1
        measured = f"step {step}: loss {metrics.loss:g}, gradient norm {metrics.grad_norm:g}"
        if self._nonfinite > self._max_nonfinite or (self._nonfinite and is_last):
            limit = f"recovery.max_nonfinite={self._max_nonfinite}" if self._policy == "skip" else f"recovery.on_nonfinite={self._policy}"
            last = ", the last one of the run" if is_last else ""
            raise Diverged(f"{measured}: not finite, {_in_a_row(self._nonfinite)} ({limit}){last}; {REMEDY}")
        if metrics.eval_loss is not None and not math.isfinite(metrics.eval_loss):
            raise Diverged(f"{measured}: the loss of held-out text after it is {metrics.eval_loss:g}; {REMEDY}")
        if self._skipped > self._max_skipped:
            raise Diverged(f"{measured}: a spike, {_in_a_row(self._skipped)}; raise optimizer.skip_sigma, {REMEDY}")
        if self._empty > MAX_EMPTY:
            told = f"step {step}: {self._empty} steps in a row had nothing to learn from"
            raise Diverged(f"{told}; `braid data inspect --verify` says which shards can't be read")


def _in_a_row(number: int) -> str:
    return "its update was withheld" if number == 1 else f"the updates of {number} steps in a row were withheld"
