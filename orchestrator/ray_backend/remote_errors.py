"""What an error that comes from another process says, in one line. Pure."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_RAISED = re.compile(r"^(?:\w+\.)*[A-Z]\w*(?:: .*)?$")
"""The line of a traceback that names what was raised."""
_WITHIN_TRACEBACK = re.compile(r"^\s+(?:File \"|\^)|^Traceback ", re.MULTILINE)


def cause_of(error: Exception) -> str:
    """Where there is a traceback, what was raised in the end, the message whole; else all of it."""
    text = _ANSI.sub("", str(error)).strip()
    if _WITHIN_TRACEBACK.search(text):
        lines = text.splitlines()
        begins = [number for number, line in enumerate(lines) if _RAISED.match(line)]
        text = "\n".join(lines[begins[-1] :]) if begins else text
    return " ".join(text.split()) or type(error).__name__
