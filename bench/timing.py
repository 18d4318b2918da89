"""Median times, taken in turns so that a busy machine disturbs every candidate alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]
Stopwatch = Callable[[Run], float]
"""Runs it once; the seconds that it took."""


def wall_s(run: Run) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


def medians_s(candidates: Mapping[str, Run], *, rounds: int = 7, stopwatch: Stopwatch = wall_s) -> dict[str, float]:
    """Seconds that each candidate takes, the median of `rounds` after one to warm up. `wall_s` needs candidates that return when done."""
    for run in candidates.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            taken[name].append(stopwatch(run))
    return {name: statistics.median(times) for name, times in taken.items()}


def print_ratios(title: str, times_s: Mapping[str, float]) -> None:
    """One line a candidate: its time, and how many times faster it is than the first."""
    print(title)
    base_s = next(iter(times_s.values()))
    for name, time_s in times_s.items():
        print(f"  {name:<28} {time_s * 1e3:9.2f} ms   {base_s / time_s:6.2f} ×")


def gpu_wall_s(run: Run) -> float:
    """Until the GPU is done: what it does, and the launches that it waits for."""

    def finished() -> None:
        run()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return wall_s(finished)


class DeviceStopwatch:
    """What the GPU takes by its own events. It finds its L2 cache full of other things, and every launch queued before it begins."""

    MOST_FILLS = 512

    def __init__(self) -> None:
        self._scratch = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        self._num_fills = 8

    def __call__(self, run: Run) -> float:
        """A run that waits for the GPU itself can't be queued: its waits are counted."""
        while True:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(self._num_fills):
                self._scratch.zero_()  # some 0.3 ms each, of the GPU alone
            start.record()
            run()
            end.record()
            is_queued = not start.query()
            torch.cuda.synchronize()
            if is_queued or self._num_fills >= self.MOST_FILLS:
                return start.elapsed_time(end) / 1e3
            self._num_fills *= 2


def describe_gpu() -> str:
    import triton  # absent on a CPU

    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}"
