"""Typed values out of a config.json; what is of another type is one line that names the key. Pure."""

import sys
from collections.abc import Mapping
from typing import Any

from model.weights.hf.errors import HFFormatError

Json = Mapping[str, Any]
"""A JSON object as Python reads it."""


def positive_int(hf: Json, key: str, default: int | None = None) -> int:
    """The whole number of 1 or more at `key`; `default` where there is none or null. Raises HFFormatError."""
    value = default if hf.get(key) is None else hf[key]
    if type(value) is not int or value < 1:
        raise HFFormatError(f"config.json {key}={value!r}: give a positive whole number")
    return value


def positive_number(hf: Json, key: str, default: float) -> float:
    """The finite number above 0 at `key`; `default` where there is none. Raises HFFormatError, also for null."""
    value = hf.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise HFFormatError(f"config.json {key}={value!r}: give a number above 0")
    return float(value)


def rope_object(hf: Json, key: str) -> Json:
    """The object at `key` that describes rotary positions; empty where there is none or null. Raises HFFormatError."""
    value = hf.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise HFFormatError(f'config.json {key}={value!r}: give an object, such as {{"rope_theta": 500000.0}}')
    return value or {}


def token(key: str, value: object) -> int:
    """`value`, found at `key`, as the number of a token. Raises HFFormatError."""
    if type(value) is not int or value < 0:
        raise HFFormatError(f"config.json {key}: {value!r} is no token; give whole numbers of 0 or more")
    return value


def require_values(hf: Json, values: Json) -> None:
    """Raises HFFormatError for a key that is there with another value than the one in `values`."""
    for key, value in values.items():
        if key in hf and not is_value(hf[key], value):
            raise HFFormatError(f"config.json {key}={hf[key]!r}: this model has {value!r}; such a checkpoint can't be imported")


def is_value(found: object, value: object) -> bool:
    """Whether both are equal, where True is not 1."""
    return found == value and isinstance(found, bool) == isinstance(value, bool)
