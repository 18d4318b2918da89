"""What of a worker's log says why it failed. Pure."""

from __future__ import annotations

import re

NUM_LINES = 20
NUM_ERROR_LINES = 40
FATAL = "Fatal Python error: "
"""How `faulthandler` begins where a signal ends the process."""
TRACEBACK = "Traceback (most recent call last):"
_THREADS = re.compile(
    r"(?:Current thread|Thread) 0x[0-9a-f]+.*:|  File \".*\", line \d+ in .*|  \.\.\.|  <no Python frame>|Extension modules: .*|"
)
_SEVERE = re.compile(r"\S+ \S+ (?:ERROR|CRITICAL) ")


def first_error(log: str) -> list[str]:
    """The log's first traceback, whole, or its first line of an error; [] where there is none. What came after it is its consequence."""
    lines = log.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(TRACEBACK):
            return _shortened(_traceback(lines[number:]))
        if line.startswith(FATAL):
            return [line]
        if _SEVERE.match(line):
            follows = next((at for at in range(number + 1, min(number + 3, len(lines))) if lines[at].startswith(TRACEBACK)), None)
            return _shortened([line, *(_traceback(lines[follows:]) if follows is not None else [])])
    return []


def last_lines(log: str) -> list[str]:
    """What the worker said last, without the stacks of its threads."""
    said = [line for line in log.splitlines() if not _THREADS.fullmatch(line)]
    return said[-NUM_LINES:]


def _traceback(lines: list[str]) -> list[str]:
    """To its last line, which names the error: the first one after it that is not indented."""
    end = next((at for at, line in enumerate(lines[1:], start=1) if line and not line.startswith(" ")), len(lines) - 1)
    return lines[: end + 1]


def _shortened(lines: list[str]) -> list[str]:
    """Both ends of it: what was called first, and what went wrong."""
    half = NUM_ERROR_LINES // 2
    return lines if len(lines) <= NUM_ERROR_LINES else [*lines[:half], f"  … {len(lines) - 2 * half} lines …", *lines[-half:]]
