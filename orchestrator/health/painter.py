"""Spans one behind the other, a few at a time or by the million. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from orchestrator.health.classes import CODES, TimeClass

Spans = tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.int32]]
"""Their beginnings, codes and blames."""


class Painter:
    """Gives classes to time, from the submission on."""

    def __init__(self) -> None:
        self.at_s = 0.0
        """Up to where it is done."""
        self._parts: list[Spans] = []

    def paint(self, until_s: float, kind: TimeClass, blame: int = 0) -> None:
        """All that is left until then; nothing where that is past."""
        if until_s > self.at_s:
            code, by = np.array([CODES[kind]], dtype=np.int8), np.array([blame], dtype=np.int32)
            self._parts.append((np.array([self.at_s]), code, by))
            self.at_s = until_s

    def paint_unseen(self, until_s: float, kind: TimeClass, blame: int, away_s: Iterable[tuple[float, float]]) -> None:
        """The same, but for the time in which nobody watched."""
        for begin_s, end_s in away_s:
            self.paint(min(begin_s, until_s), kind, blame)
            self.paint(min(end_s, until_s), TimeClass.CONTROLLER_AWAY, blame)
        self.paint(until_s, kind, blame)

    def paint_many(self, starts_s: NDArray[np.float64], codes: NDArray[np.int8], blames: NDArray[np.int32], until_s: float) -> None:
        """Spans that begin where the painter is, ascend, and end with the last one at `until_s`."""
        self._parts.append((starts_s, codes, blames))
        self.at_s = until_s

    def spans(self, end_s: float) -> Spans:
        """All of them up to `end_s`: none is empty, and no two neighbours are alike."""
        if not self._parts:
            return np.empty(0), np.empty(0, dtype=np.int8), np.empty(0, dtype=np.int32)
        starts_s, codes, blames = (np.concatenate(one) for one in zip(*self._parts, strict=True))
        is_long = np.diff(starts_s, append=end_s) > 0
        starts_s, codes, blames = starts_s[is_long], codes[is_long], blames[is_long]
        is_other = np.ones(len(codes), dtype=bool)
        is_other[1:] = (codes[1:] != codes[:-1]) | (blames[1:] != blames[:-1])
        return starts_s[is_other], codes[is_other], blames[is_other]
