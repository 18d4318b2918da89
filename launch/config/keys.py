"""Which keys a recipe may have, and in words what each of them takes. Pure; knows types, but not where values come from."""

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Sequence
from typing import Any

PRESET = "preset"
"""The key of the section `model` that names a whole model; the one key which is no field of a configuration."""


def keys_of(cls: type, where: str) -> list[str]:
    """The keys that a section of this class may have; `where` is its dotted key with a dot behind it, "" for the whole recipe."""
    return [field.name for field in dataclasses.fields(cls)] + ([PRESET] if where == "model." else [])


def in_a_section(cls: type, key: str) -> str:
    """A hint for a key that is given without its section, such as dp_shard for parallel.dp_shard; "" where no section has it."""
    sections = {name: section for name, hint in typing.get_type_hints(cls).items() if (section := section_in(hint))}
    meant = [f"{name}.{key}" for name, section in sections.items() if key in keys_of(section, f"{name}.")]
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def section_in(hint: Any) -> type | None:
    """The dataclass that a field holds, or may hold; None where it holds something else."""
    inner, _ = without_none(hint)
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def without_none(hint: Any) -> tuple[Any, bool]:
    """(the type without None, whether the field may be None)."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    return next(one for one in typing.get_args(hint) if one is not type(None)), True


def holds_structure(hint: Any) -> bool:
    """Whether a field takes lists or sections, so that its value on the command line is YAML; any other is taken as it is typed."""
    inner, _ = without_none(hint)
    return typing.get_origin(inner) in (tuple, dict) or section_in(inner) is not None


def wanted(hint: Any, key: str) -> str:
    """What a field of this type at a dotted key takes, as a remedy: "use a whole number"."""
    inner, _ = without_none(hint)
    if typing.get_origin(inner) is tuple:
        section = section_in(typing.get_args(inner)[0])
        example = f"{{{dataclasses.fields(section)[0].name}: VALUE}}" if section else "VALUE"
        return f"use a list{' of sections' * bool(section)}, such as {key}=[{example}]"
    if typing.get_origin(inner) is dict:
        return f"use a section, such as {key}={{KEY: VALUE}}"
    if section := section_in(inner):
        example = PRESET if key == "model" else dataclasses.fields(section)[0].name
        if key.endswith("]"):
            return f"a section, not a value; use {{{example}: VALUE}}"
        return f"a section, not a value; set its keys, such as {key}.{example}=VALUE"
    if typing.get_origin(inner) is typing.Literal:
        return f"use one of {', '.join(map(str, typing.get_args(inner)))}"
    if isinstance(inner, type) and issubclass(inner, enum.Enum):
        return f"use one of {', '.join(str(member.value) for member in inner)}"
    words = {int: "use a whole number", float: "use a number", bool: "use true or false", str: "use a text"}
    return words.get(inner, f"use {inner}")


def may_be_secret(key: str) -> bool:
    """Whether people may have put an address with a token there, or a password, though it does not belong there: it is told to nobody."""
    return key.partition(".")[0] in ("alerts", "metrics")


def near(name: str, choices: Sequence[str], where: str = "") -> str:
    """A hint at the choice that was probably meant; "" where none is near."""
    matches = difflib.get_close_matches(name, choices, n=1)
    return f" (did you mean {where}{matches[0]}?)" if matches else ""
