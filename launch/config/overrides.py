"""`key.path=value` on top of a recipe's tree: sections become one, an element of a list is changed in its place. Pure."""

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any

import yaml

from launch.config.keys import holds_structure, may_be_secret, section_in, wanted, without_none
from launch.config.text import dump, one_line, parse_yaml
from launch.errors import ConfigError

Tree = dict[Any, Any]
_KEY = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^.\[\]]+\])*")
"""OmegaConf's: `data.sources[0].ratio`, or `data.sources.0.ratio`."""


def with_override(cls: type, settings: Tree, override: str, base: object = None) -> Tree:
    """The settings of a `cls` with one override on top, not checked yet.

    Of a list that the settings don't have, that of `base` is changed, or else the default. Raises ConfigError for what is no override.
    """
    parts, text = _split(override)
    return typing.cast(Tree, _with(cls, settings, parts, text, key="", base=base))


def keys_said(section: str, overrides: Sequence[str]) -> set[str]:
    """The keys of a section that overrides give, each checked already."""
    split = [(parts, text) for parts, text in map(_split, overrides) if parts[0] == section]
    whole = [parse_yaml(text) for parts, text in split if len(parts) == 1]
    return {parts[1] for parts, _ in split if len(parts) > 1} | {key for tree in whole if isinstance(tree, dict) for key in tree}


def _split(override: str) -> tuple[list[str], str]:
    """(the parts of the key, the value) of `key=value`."""
    key, equals, text = override.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(f"override {override!r}: not of the form key=value; for example train.num_steps=200")
    return re.sub(r"\[([^\]]+)\]", r".\1", key).split("."), text


def merged(old: Any, new: Any) -> Any:
    """Sections become one; of anything else the new one counts."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {key: merged(old[key], new[key]) if key in old and key in new else (old | new)[key] for key in old | new}


def _with(hint: Any, tree: Any, parts: Sequence[str], text: str, *, key: str, base: object) -> Any:
    """What is at a dotted key, of a type and None for nothing, with the text at `parts` below it."""
    inner, _ = without_none(hint)
    if not parts:
        return merged(tree, _parsed(inner, text, key))
    if typing.get_origin(inner) is tuple:
        items = _plain(base) if tree is None else tree
        index = _index(parts[0], items, inner, key)
        changed = _with(typing.get_args(inner)[0], items[index], parts[1:], text, key=f"{key}[{index}]", base=None)
        return [*items[:index], changed, *items[index + 1 :]]
    name, section = parts[0], section_in(inner)
    below: Any = typing.get_type_hints(section).get(name, str) if section else str
    old = tree if isinstance(tree, dict) else {}
    its_base = _usual(section, name, base) if section else None
    return old | {name: _with(below, old.get(name), parts[1:], text, key=f"{key}.{name}".lstrip("."), base=its_base)}


def _parsed(hint: Any, text: str, key: str) -> Any:
    """What takes lists or sections is YAML on the command line; any other is taken as it is typed."""
    try:
        return parse_yaml(text) if holds_structure(hint) else text
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) if may_be_secret(key) else one_line(error)
        raise ConfigError(f"{key}: its value is not valid YAML: {problem}; quote it") from error


def _index(part: str, items: Any, hint: Any, key: str) -> int:
    if not isinstance(items, list) or not items:
        raise ConfigError(f"{key}[{part}]: there is no list {key} to change; {wanted(hint, key)}")
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    has = ", ".join(f"{key}[{number}] ({_told(item)})" for number, item in enumerate(items))
    raise ConfigError(f"{key}[{part}]: no such element; there is {has}")


def _told(item: Any) -> str:
    """An element of a list by what it begins with."""
    name, value = next(iter(item.items()), ("", "")) if isinstance(item, dict) else ("", item)
    return f"{name}: {value}" if name else str(value)


def _usual(section: type, name: str, base: object) -> object:
    """What a field has where nothing is said of it."""
    given = base.get(name) if isinstance(base, dict) else getattr(base, name, None)
    default = next((field.default for field in dataclasses.fields(section) if field.name == name), None)
    return default if given is None and default is not dataclasses.MISSING else given


def _plain(items: object) -> Any:
    """Configurations as a recipe would have them; None for what is no list."""
    if not isinstance(items, tuple):
        return None
    return parse_yaml(dump([_said(item) for item in items]))


def _said(item: Any) -> Any:
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return item
    return {name: value for name, value in dataclasses.asdict(item).items() if value is not None}
