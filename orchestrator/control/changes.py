"""What one state has that the one before had not, as JSON's own types, so that a journal need not repeat the whole. Pure.

{"stage": "draining", "incidents": {"keep": 2, "add": […]}, "strikes": {"set": {…}, "drop": […]}}
"""

from __future__ import annotations

from typing import Any

Plain = dict[str, Any]


def changes(before: Plain, after: Plain) -> Plain:
    """What `apply` needs to make `after` of `before`; both have the same fields."""
    return {name: _change(before.get(name), value) for name, value in after.items() if name not in before or before[name] != value}


def apply(before: Plain, changed: Plain) -> Plain:
    """The state after the changes."""
    return before | {name: _applied(before.get(name), change) for name, change in changed.items()}


def _change(before: Any, after: Any) -> Any:
    if isinstance(before, list) and isinstance(after, list):
        keep = 0
        while keep < min(len(before), len(after)) and before[keep] == after[keep]:
            keep += 1
        return {"keep": keep, "add": after[keep:]}
    return {"is": after}


def _applied(before: Any, change: Plain) -> Any:
    return [*before[: change["keep"]], *change["add"]] if "keep" in change else change["is"]
