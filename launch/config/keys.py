"""Which keys a recipe may have, and in words what each of them takes. Pure; knows the configurations, but not where values come from."""

import dataclasses
import difflib
import enum
import typing
from collections.abc import Sequence
from typing import Any

from orchestrator.config import RunConfig

PRESET = "preset"
"""The key of the section `model` that names a whole model; the one key which is no field of a configuration."""


def keys_of(cls: type, where: str) -> list[str]:
    """The keys that a section of this class may have; `where` is its dotted key with a dot behind it, "" for the whole recipe."""
    return [field.name for field in dataclasses.fields(cls)] + ([PRESET] if where == "model." else [])


def in_a_section(cls: type, key: str) -> str:
    """A hint for a key that is given without its section, such as dp_shard for parallel.dp_shard; "" where no section has it."""
    sections = {
        name: hint for name, hint in typing.get_type_hints(cls).items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)
    }
    meant = [f"{name}.{key}" for name, section in sections.items() if key in keys_of(section, f"{name}.")]
    return f", did you mean {' or '.join(meant)}?" if meant else ""


def wanted_at(key: str) -> str:
    """What the field at a dotted key of RunConfig takes, as a remedy: "use a whole number"."""
    hint: Any = RunConfig
    for part in key.split("."):
        name, bracket, _ = part.partition("[")
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
        hint = typing.get_args(hint)[0] if bracket else hint
    if typing.get_origin(hint) is tuple:
        return f"use a list of sections, such as {key}=[{{{dataclasses.fields(typing.get_args(hint)[0])[0].name}: VALUE}}]"
    if dataclasses.is_dataclass(hint):
        example = PRESET if key == "model" else dataclasses.fields(hint)[0].name
        return f"a section, not a value; set its keys, such as {key}.{example}=VALUE"
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return f"use one of {', '.join(map(str, typing.get_args(hint)))}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"use one of {', '.join(str(member.value) for member in hint)}"
    words = {int: "use a whole number", float: "use a number", bool: "use true or false", str: "use a text"}
    return words.get(hint, "wrong type") if isinstance(hint, type) else f"use {hint}"


def near(name: str, choices: Sequence[str], where: str = "") -> str:
    """A hint at the choice that was probably meant; "" where none is near."""
    matches = difflib.get_close_matches(name, choices, n=1)
    return f", did you mean {where}{matches[0]}?" if matches else ""
