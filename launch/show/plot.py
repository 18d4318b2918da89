"""A curve in a terminal, out of Braille dots: two across and four down in every character. Pure."""

from collections.abc import Sequence
from itertools import pairwise

_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of the dot at [x % 2][y % 4], as Unicode has it."""


def plot(values: Sequence[float], *, width: int = 64, height: int = 12, label: str) -> list[str]:
    """Lines of text: the finite `values`, at least one, from left to right, largest and smallest at the axis, `label` below."""
    across, down = 2 * width, 4 * height
    heights = [
        _mean(values[i * len(values) // across : max((i + 1) * len(values) // across, i * len(values) // across + 1)])
        for i in range(across)
    ]
    low, high = min(heights), max(heights)
    rows = [round((high - value) / (high - low or 1.0) * (down - 1)) for value in heights]
    cells = [[_BLANK] * width for _ in range(height)]
    for x, (row, following) in enumerate(pairwise([*rows, rows[-1]])):
        for y in range(min(row, following), max(row, following) + 1):
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    ticks = {0: f"{high:.3g}", height - 1: f"{low:.3g}"}
    lines = [f"{ticks.get(i, ''):>7} │{''.join(map(chr, row))}" for i, row in enumerate(cells)]
    return [*lines, f"{'':>7} └{'─' * width}", f"{'':>9}{label}"]


def rolling_mean(values: Sequence[float], window: int) -> list[float]:
    """Each value with those before it, up to `window` of them: the trend of a noisy curve."""
    return [_mean(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
