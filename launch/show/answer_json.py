"""Answers as JSON. JSON has no NaN and no infinity: a number that is not finite is null. Pure."""

import json
import math
from typing import Any


def answer_json(value: Any, *, indent: int | None = None) -> str:
    """The only way by which commands print JSON."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
