"""A worker's log as a page shows it: its last lines, or those with a word in them, and where it first tells of an error. Pure."""

from typing import Any

from orchestrator.health.log_lines import first_error

LINES_SHOWN = 2000


def log_page(data: bytes, search: str) -> dict[str, Any]:
    """The newest lines, as many as a page can have, each with its number; with `search`, those that have the text, in any case."""
    text = data.decode("utf-8", "replace")
    lines = text.splitlines()
    wanted = search.casefold()
    found = [_line(number, line) for number, line in enumerate(lines, start=1) if wanted in line.casefold()]
    error = first_error(text)
    return {
        "num_lines": len(lines),
        "num_found": len(found),
        "first_error": {"number": lines.index(error[0]) + 1, "text": error[-1]} if error else None,
        "lines": found[-LINES_SHOWN:],
    }


def _line(number: int, text: str) -> dict[str, Any]:
    return {"number": number, "text": text}
