"""Curves for a page: a run's steps as columns, and of a stretch of them no more points than a screen has pixels. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]
CURVES = ("loss", "grad_norm", "tokens_per_s", "data_wait_s", "eval_loss")
"""By their names here and on the page."""
MAX_WIDTH = 4000


def curves_of(columns: Mapping[str, Column], *, x: str, first: float, last: float, width: int) -> dict[str, Any]:
    """Of each curve that was recorded, JSON-ready `{"x": […], "y": […]}` between two values of `x`, which is "step" or "ended_at_s".

    About 2 × `width` points each: the lowest and the highest of each stretch, so that no spike is lost, and what is no number.
    """
    width = max(1, min(width, MAX_WIDTH))
    along = columns[x]
    is_there = np.isfinite(along)
    found: dict[str, Any] = {}
    for name in CURVES:
        known = is_there & _is_recorded(columns, name)
        if not known.any():
            continue
        xs, ys = along[known], columns[name][known]
        start, stop = np.searchsorted(xs, first), np.searchsorted(xs, last, side="right")
        xs, ys = xs[max(0, start - 1) : stop + 1], ys[max(0, start - 1) : stop + 1]
        kept = extremes(ys, width)
        found[name] = {"x": xs[kept].tolist(), "y": ys[kept].tolist()}
    return {"curves": found, "first": _edge(along[is_there], 0), "last": _edge(along[is_there], -1)}


def extremes(values: Column, width: int) -> npt.NDArray[np.int64]:
    """Indices of the ends, and of the lowest and highest value of each of `width` stretches, in order; all where that is no less."""
    count = len(values)
    if count <= 2 * width:
        return np.arange(count)
    edges = np.linspace(0, count, width + 1).astype(np.int64)
    longest = int(np.diff(edges).max())
    places = np.minimum(edges[:-1, None] + np.arange(longest), edges[1:, None] - 1)
    stretch = values[places]
    lowest = np.where(np.isfinite(stretch), stretch, np.inf).argmin(axis=1)
    highest = np.where(np.isfinite(stretch), stretch, -np.inf).argmax(axis=1)
    rows = np.arange(width)
    broken = ~np.isfinite(values)
    ends = np.array([0, count - 1])
    return np.unique(np.concatenate([ends, places[rows, lowest], places[rows, highest], np.flatnonzero(broken)[:width]]))


def _is_recorded(columns: Mapping[str, Column], name: str) -> npt.NDArray[np.bool_]:
    """Where the curve has a point. A loss that is no number is a gap, so it counts; what a step does not measure does not."""
    if name not in columns:
        return np.zeros(len(columns["step"]), dtype=bool)
    return np.ones(len(columns["step"]), dtype=bool) if name in ("loss", "grad_norm") else np.isfinite(columns[name])


def _edge(values: Column, place: int) -> float | None:
    return float(values[place]) if len(values) else None


def newest_of_each_step(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Of steps that several attempts trained, the newest attempt's: what the run's weights came of. Sorted by step."""
    order = np.lexsort((columns["attempt"], columns["step"]))
    steps = columns["step"][order]
    is_last = np.append(steps[1:] != steps[:-1], True) if len(steps) else np.zeros(0, dtype=bool)
    return {name: values[order][is_last] for name, values in columns.items()}
