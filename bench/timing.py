"""Median times, taken in turns so that a busy machine disturbs every candidate alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians_s(candidates: Mapping[str, Callable[[], object]], *, rounds: int = 7) -> dict[str, float]:
    """Seconds that each candidate takes, the median of `rounds` after one to warm up. Candidates return when their work is done."""
    for run in candidates.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            started_s = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started_s)
    return {name: statistics.median(times) for name, times in taken.items()}


def print_ratios(title: str, times_s: Mapping[str, float]) -> None:
    """One line a candidate: its time, and how many times faster it is than the first."""
    print(title)
    base_s = next(iter(times_s.values()))
    for name, time_s in times_s.items():
        print(f"  {name:<28} {time_s * 1e3:9.2f} ms   {base_s / time_s:6.2f} ×")
