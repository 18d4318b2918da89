"""The stacks that workers write into their logs before a hang is answered: parsed, and equal ones of many ranks told once. Pure.

Python's `faulthandler` writes them, innermost call first. Of each rank the main thread counts, which trains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_THREAD = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):")
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')
CUT = "  ..."
"""Follows the hundredth call of a thread: no other thread than the main one goes so deep."""
OUTERMOST = "<module>"
"""Only the thread that runs the program has one."""
COLLECTIVES = "torch/distributed/distributed_c10d.py"
PACKAGES = ("site-packages/", "dist-packages/")
FOREIGN = (*PACKAGES, "lib/python", "<frozen ")
"""In names of files that are not of the project."""
PLACES = ("model/", "orchestrator/", "data_pipeline/", "launch/")


@dataclass(frozen=True, slots=True)
class Frame:
    file: str
    line: int
    function: str

    @property
    def is_own(self) -> bool:
        return not any(part in self.file for part in FOREIGN)

    @property
    def place(self) -> str:
        """As short as it can be found by."""
        file = self.file
        for package in PACKAGES:
            file = file.rpartition(package)[2]
        for room in PLACES if self.is_own else ():
            file = room + file.rpartition(room)[2] if room in file else file
        return f"{self.function} ({file}:{self.line})"


@dataclass(frozen=True, kw_only=True, slots=True)
class StackGroup:
    """Ranks whose main threads stand at the same place."""

    ranks: tuple[int, ...]
    frames: tuple[Frame, ...]
    """Innermost first; () where a rank wrote none."""

    @property
    def collective(self) -> str:
        """Of torch.distributed, that they are in; "" for none."""
        inside = [frame.function for frame in self.frames if frame.file.endswith(COLLECTIVES)]
        return inside[0] if inside else ""

    @property
    def where(self) -> str:
        """In one line: the collective or the innermost call, and what of this project made it."""
        if not self.frames:
            return "no stack: the process wrote none before it ended"
        own = next((frame for frame in self.frames if frame.is_own), None)
        if self.collective:
            return f"wait in {self.collective}" + (f", called by {own.place}" if own else "")
        called = f", called by {own.place}" if own and own is not self.frames[0] else ""
        return f"in {self.frames[0].place}{called}"


def main_stack(log: str) -> tuple[Frame, ...]:
    """The main thread's stack that was written last; () where there is none."""
    newest: tuple[Frame, ...] = ()
    frames: list[Frame] | None = None
    for line in log.splitlines():
        if _THREAD.fullmatch(line):
            frames = []
        elif frames is not None and (match := _FRAME.fullmatch(line)):
            frames.append(Frame(match["file"], int(match["line"]), match["function"]))
            if match["function"] == OUTERMOST:
                newest = tuple(frames)
        elif frames and line == CUT:
            newest = tuple(frames)
    return newest


def grouped(stacks: Mapping[int, Sequence[Frame]]) -> tuple[StackGroup, ...]:
    """By rank → groups, the smallest first: who stands alone is the one to look at."""
    by_stack: dict[tuple[Frame, ...], list[int]] = {}
    for rank in sorted(stacks):
        by_stack.setdefault(tuple(stacks[rank]), []).append(rank)
    groups = [StackGroup(ranks=tuple(ranks), frames=frames) for frames, ranks in by_stack.items()]
    return tuple(sorted(groups, key=lambda group: (len(group.ranks), group.ranks)))


def who_is_missing(groups: Sequence[StackGroup]) -> str:
    """Who never entered the collective that others wait in, or waits in another one, in one line; "" where the stacks do not tell."""
    waiting: dict[str, list[int]] = {}
    for group in groups:
        if group.collective:
            waiting.setdefault(group.collective, []).extend(group.ranks)
    absent = [group for group in groups if group.frames and not group.collective]
    if not waiting or (len(waiting) == 1 and not absent):
        return ""
    waits = [f"{ranks_in_words(ranks)} in {name}" for name, ranks in waiting.items()]
    others = [f"{ranks_in_words(group.ranks)} never entered it: {group.where}" for group in absent]
    return "; ".join((f"waiting: {', '.join(waits)}", *others))


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Such as "ranks 0–14, 16"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"rank{'s' * (len(ranks) != 1)} {words}"
