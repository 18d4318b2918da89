"""Texts and trees of texts → the configurations' types. Pure: the type of a field alone says what its text means."""

import dataclasses
import decimal
import enum
import math
import re
import typing
from collections.abc import Mapping
from typing import Any

from launch.config.keys import in_a_section, keys_of, may_be_secret, near, section_in, wanted, without_none
from launch.config.text import one_line
from launch.errors import ConfigError

MISSING = "???"
"""What recipes write for a value that is still to be given, as OmegaConf has it."""
NOTHING = ("", "~", "null", "none")
"""In lower case: what a field that may be None takes for None."""
SAID = {"true": True, "yes": True, "on": True, "y": True, "1": True, "false": False, "no": False, "off": False, "n": False, "0": False}
LONGEST_NUMBER = 40
"""Digits of a whole number: more than any setting needs, and few enough to compute with."""
LARGEST_INT64 = 2**63 - 1
LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127
"""In which training computes: what is larger is infinite there."""
LONGEST_S = 1e9
"""31 years: locks and time spans raise at a few more."""
_DECIMAL = re.compile(r"[+-]?[0-9]+(_[0-9]+)*(\.[0-9]*)?(e[+-]?[0-9]{1,9})?", re.IGNORECASE)
_WITH_BASE = re.compile(r"[+-]?0(x[0-9a-f]+|o[0-7]+|b[01]+)", re.IGNORECASE)
_NOT_FINITE = re.compile(r"([+-]?)\.(inf|nan)", re.IGNORECASE)


class MissingKey(ConfigError):
    """A key has no value and no default."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key}: missing; set it in the recipe, or with {key}=VALUE")
        self.key = key


class _Unfit(Exception):
    """The value is none of its field's type."""


def section(cls: type, plain: Mapping[Any, Any], where: str, base: Mapping[str, Any] | None = None) -> Any:
    """An object of `cls` with the values of `plain`, where it has none those of `base`, and else the defaults of the class.

    `where` is its dotted key with a dot behind it, "" for the whole recipe. Raises ConfigError for the first key that does not exist,
    has a value of another type, or is missing.
    """
    base = base or {}
    _refuse_unknown(cls, plain, where)
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
        key, hint = where + field.name, hints[field.name]
        if field.name in plain:
            values[field.name] = value_of(hint, plain[field.name], key, base.get(field.name))
        elif field.name in base:
            values[field.name] = base[field.name]
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            values[field.name] = value_of(hint, {} if section_in(hint) else MISSING, key)
    try:
        return cls(**values)
    except ValueError as error:  # raised by the configurations themselves, which name the key and the remedy
        raise ConfigError(one_line(error)) from error


def value_of(hint: Any, value: Any, key: str, base: Any = None) -> Any:
    """The value at a dotted key as its field's type has it. Raises ConfigError."""
    if value == MISSING:
        raise MissingKey(key)
    inner, may_be_none = without_none(hint)
    if may_be_none and (value is None or (isinstance(value, str) and value.strip().lower() in NOTHING)):
        return None
    try:
        typed = _typed(inner, value, key, base)
    except _Unfit as error:
        raise ConfigError(f"{key}={_shown(value, key)}: {wanted(hint, key)}") from error
    if problem := _beyond(typed, key):
        raise ConfigError(f"{key}={value}: {problem}")
    return typed


def _shown(value: Any, key: str) -> str:
    """What is typed where a secret is asked for may be one."""
    return "…" if may_be_secret(key) and not isinstance(value, int | float) else repr(value)


def _beyond(typed: Any, key: str) -> str:
    """Why a number is none that a machine can compute with, or wait for, and what to use; "" for any other value."""
    if isinstance(typed, float) and not math.isfinite(typed):
        return "must be finite; use an ordinary number"
    if isinstance(typed, float) and key.endswith("_s") and typed > LONGEST_S:
        return f"more seconds than anything can wait; use {LONGEST_S:g} or less"
    if isinstance(typed, float) and abs(typed) > LARGEST_FLOAT32:
        return "infinite as a float32; use an ordinary number"
    if type(typed) is int and abs(typed) > LARGEST_INT64:
        return f"more than 64 bits hold; use {LARGEST_INT64} or less"
    return ""


def _typed(hint: Any, value: Any, key: str, base: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if section_in(hint):
        return section(hint, _a(dict, value), f"{key}.", _values_of(base))
    if origin is tuple:
        return tuple(value_of(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(_a(list, value)))
    if origin is dict:
        return {name: value_of(arguments[1], item, f"{key}.{name}") for name, item in _a(dict, value).items()}
    if origin is typing.Literal:
        return _named({str(choice): choice for choice in arguments}, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _named({str(member.value): member for member in hint}, value)
    return _SCALARS[hint](value)


def _values_of(base: Any) -> dict[str, Any]:
    return {field.name: getattr(base, field.name) for field in dataclasses.fields(base)} if dataclasses.is_dataclass(base) else {}


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise _Unfit
    return value


def _named(choices: Mapping[str, Any], value: Any) -> Any:
    if _a(str, value) not in choices:
        raise _Unfit
    return choices[value]


def _text(value: Any) -> str:
    return str(_a(str, value))


def _whole(value: Any) -> int:
    """1000, 1_000, 1e3 and 0x3e8; a reference may bring a number."""
    if type(value) is int:
        return value
    text = _a(str, value).strip()
    if _WITH_BASE.fullmatch(text) and len(text) <= LONGEST_NUMBER:
        return int(text, 0)
    number = decimal.Decimal(text) if _DECIMAL.fullmatch(text) else decimal.Decimal("nan")
    if not number.is_finite() or number.adjusted() >= LONGEST_NUMBER or number != number.to_integral_value():
        raise _Unfit
    return int(number)


def _number(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    text = _NOT_FINITE.sub(r"\1\2", _a(str, value).strip())
    try:
        return float(text)
    except ValueError as error:
        raise _Unfit from error


def _whether(value: Any) -> bool:
    if type(value) is bool:
        return value
    said = SAID.get(_a(str, value).strip().lower())
    if said is None:
        raise _Unfit
    return said


_SCALARS = {str: _text, int: _whole, float: _number, bool: _whether}


def _refuse_unknown(cls: type, plain: Mapping[Any, Any], where: str) -> None:
    """Raises ConfigError for the first key that is no field of `cls`, with the nearest of those that are."""
    allowed = keys_of(cls, where)
    for key in plain:
        if key not in allowed:
            meant = ("" if where else in_a_section(cls, str(key))) or near(str(key), allowed, where)
            raise ConfigError(f"{where}{key}: no such key{meant}; {where.rstrip('.') or 'a recipe'} has {', '.join(allowed)}")
