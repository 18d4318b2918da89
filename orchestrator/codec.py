"""Frozen dataclasses to and from JSON: one way for configs, messages, journal entries and manifests. Pure."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class DecodeError(ValueError):
    """The JSON at hand does not describe the wanted dataclass; the message names the field."""


def to_plain(value: Any) -> Any:
    """Dataclasses, enums, tuples and scalars as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if not _says_nothing(field, value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def _says_nothing(field: dataclasses.Field[Any], value: Any) -> bool:
    """A field that earlier versions did not have, marked `omit_default` in its metadata, at its default.

    It is left out, so that digests and stored objects stay what they were, and earlier versions can read them.
    """
    return bool(field.metadata.get("omit_default")) and getattr(value, field.name) == field.default


def from_plain(cls: type[T], data: Any, where: str = "", *, ignore_unknown: bool = False) -> T:
    """The inverse of `to_plain` for the dataclass `cls`. Raises DecodeError for a missing, unknown or mistyped field.

    With `ignore_unknown`, fields that the dataclass itself does not have (nested ones must) are passed over: a later version wrote them.
    """
    here = where or cls.__name__
    if not isinstance(data, dict):
        raise DecodeError(f"{here}: expected an object, found {type(data).__name__}")
    hints = _hints(typing.cast(Any, cls))
    unknown = sorted(set(data) - set(hints))
    if unknown and not ignore_unknown:
        raise DecodeError(f"{here}.{unknown[0]}: unknown field, written by another version of braid?")
    values = {name: _decode(hints[name], data[name], f"{here}.{name}") for name in hints if name in data}
    try:
        return cls(**values)
    except TypeError as error:
        raise DecodeError(f"{here}: {error}") from error


def to_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces. Floats keep every bit (shortest round-trip form)."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=True).encode()


def from_json(cls: type[T], data: bytes, where: str = "") -> T:
    try:
        plain = load_json(data)
    except ValueError as error:
        raise DecodeError(f"{where or cls.__name__}: not JSON ({error})") from error
    return from_plain(cls, plain, where)


def load_json(data: bytes) -> Any:
    """JSON's own types. Raises ValueError for what is no JSON, or is nested deeper than anything that is stored."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hex."""
    return hashlib.sha256(to_json(value)).hexdigest()


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        return _literal(hint, value, where)
    if origin is tuple:
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(_list(value, where)))
    if origin is dict:
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint, value, where)
    return _scalar(hint, value, where)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DecodeError(f"{where}: expected a list, found {type(value).__name__}")
    return value


def _enum(hint: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    try:
        return hint(value)
    except ValueError as error:
        raise DecodeError(f"{where}: {value!r} is none of {', '.join(str(member.value) for member in hint)}") from error


def _literal(hint: Any, value: Any, where: str) -> Any:
    if value not in typing.get_args(hint):
        raise DecodeError(f"{where}: {value!r} is none of {', '.join(map(str, typing.get_args(hint)))}")
    return value


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise DecodeError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")
    return value
