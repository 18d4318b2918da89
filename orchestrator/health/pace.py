"""How long a step usually takes: what its own past says, so that nothing that comes later changes it. Pure."""

from __future__ import annotations

import bisect

import numpy as np
from numpy.typing import NDArray

WINDOW_STEPS = 64
SLOW_FROM = 1.1
"""How many times as long as usual a step takes that counts as slow: what is below it is noise."""


def usual_s(took_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """How long each step was to be expected to take: the median of the window before its own; in the first, of the steps before it.

    Windows are 64 steps, one behind the other. The first step of all is what it was.
    """
    usual = np.array(took_s, dtype=np.float64)
    before: list[float] = []
    for place, took in enumerate(took_s[:WINDOW_STEPS].tolist()):
        if before:
            usual[place] = (before[(len(before) - 1) // 2] + before[len(before) // 2]) / 2
        bisect.insort(before, took)
    whole = len(took_s) // WINDOW_STEPS
    medians = np.median(took_s[: whole * WINDOW_STEPS].reshape(whole, WINDOW_STEPS), axis=1) if whole else np.empty(0)
    later = len(took_s) - WINDOW_STEPS
    if later > 0:
        usual[WINDOW_STEPS:] = np.repeat(medians, WINDOW_STEPS)[:later]
    return usual


def expected_s(took_s: NDArray[np.float64]) -> float:
    """How long the next step is to be expected to take; 0 where nothing is known."""
    newest = took_s[-WINDOW_STEPS:]
    return float(np.median(newest)) if len(newest) else 0.0


def excess_s(took_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much longer than usual each step took; 0 for those that did not take clearly longer."""
    usual = usual_s(took_s)
    return np.where(took_s > SLOW_FROM * usual, took_s - usual, 0.0)
