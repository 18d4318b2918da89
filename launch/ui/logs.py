"""A worker's log as a page shows it: its last lines, or those with a word in them, and where it first tells of an error. Pure."""

import re
from typing import Any

LINES_SHOWN = 2000
FIRST_ERROR = re.compile(
    r"Traceback \(most recent call last\)|\b\w*(?:Error|Exception)\b(?::|$)|\bFATAL\b|\bERROR\b|CUDA error|NCCL WARN|Segmentation fault|Xid"
)


def log_page(data: bytes, search: str) -> dict[str, Any]:
    """The newest lines, as many as a page can have, each with its number; with `search`, those that have the text, in any case."""
    lines = data.decode("utf-8", "replace").splitlines()
    wanted = search.casefold()
    found = [(number, line) for number, line in enumerate(lines, start=1) if wanted in line.casefold()]
    return {
        "num_lines": len(lines),
        "num_found": len(found),
        "first_error": next((_line(number, line) for number, line in enumerate(lines, start=1) if FIRST_ERROR.search(line)), None),
        "lines": [_line(number, line) for number, line in found[-LINES_SHOWN:]],
    }


def _line(number: int, text: str) -> dict[str, Any]:
    return {"number": number, "text": text}
