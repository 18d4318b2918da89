"""A curve as a picture: axes, a line that is broken where there is no number. SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 200, 64, 24, 28
INK = "#1f6f8b"


def curve_svg(title: str, xs: Sequence[float], ys: Sequence[float | None]) -> str:
    """Of one value per x, x growing. None and what is no number is a gap."""
    known = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(y)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="12">'
    label = f'<title>{escape(title)}</title><text x="0" y="16" font-weight="bold" fill="currentColor">{escape(title)}</text>'
    if not known:
        return f'{head}{label}<text x="0" y="40" fill="currentColor">nothing is recorded</text></svg>'
    (low_x, high_x), (low_y, high_y) = _range([x for x, _ in known]), _range([y for _, y in known])

    def place(x: float, y: float) -> str:
        return f"{LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - 8):.1f} {_y(y, low_y, high_y):.1f}"

    marks = "".join(
        f'<text x="{LEFT - 6}" y="{_y(value, low_y, high_y) + 4:.1f}" text-anchor="end" fill="currentColor">{value:.4g}</text>'
        for value in (low_y, high_y)
    )
    marks += f'<text x="{LEFT}" y="{HEIGHT - 6}" fill="currentColor">{low_x:,.0f}</text>'
    marks += f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end" fill="currentColor">{high_x:,.0f}</text>'
    path, is_open = [], False
    for x, y in zip(xs, ys, strict=True):
        if y is None or not math.isfinite(y):
            is_open = False
            continue
        path.append(f"{'L' if is_open else 'M'}{place(x, y)}")
        is_open = True
    line = f'<path d="{"".join(path)}" fill="none" stroke="{INK}" stroke-width="1.3" stroke-linecap="round"/>'
    return f"{head}{label}{marks}{line}</svg>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Never empty: of one value it is that value with some room."""
    low, high = min(values), max(values)
    room = abs(low) * 0.05 or 1.0
    return (low, high) if high > low else (low - room, high + room)


def _y(value: float, low: float, high: float) -> float:
    return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM - 8)
