"""Whether every key of a recipe exists, before OmegaConf merges it: its own errors name no neighbours and let the items of lists pass."""

import dataclasses
import math
import typing
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.config.keys import in_a_section, keys_of, near, wanted_at
from launch.errors import ConfigError


def check_keys(cls: type, plain: dict[Any, Any], where: str) -> None:
    """Raises ConfigError for the first key below `where` ("" or "train.") that is no field of `cls`, with the nearest of those that are.

    Lists of sections in `plain` become lists of typed ones.
    """
    hints = typing.get_type_hints(cls)
    allowed = keys_of(cls, where)
    for key, value in plain.items():
        if key not in allowed:
            meant = ("" if where else in_a_section(cls, str(key))) or near(str(key), allowed, where)
            raise ConfigError(f"{where}{key}: no such key{meant}; {where or 'a recipe'} has {', '.join(allowed)}")
        if value == "???":  # what OmegaConf calls missing
            continue
        hint = hints.get(key)
        if typing.get_origin(hint) is tuple:
            plain[key] = _sections(typing.get_args(hint)[0], value, f"{where}{key}")
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}{key}={value!r}: {wanted_at(f'{where}{key}')}")
            check_keys(hint, value, f"{where}{key}.")


def require_finite(value: Any, key: str = "") -> None:
    """Raises ConfigError for the first number anywhere in a recipe that is infinite or none: no setting means that, and all let it pass."""
    if isinstance(value, dict):
        for name, item in value.items():
            require_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            require_finite(item, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be finite; use an ordinary number")


def _sections(cls: type, value: Any, key: str) -> list[Any]:
    """The items of a list, each checked and typed, since OmegaConf takes them as they come. Raises ConfigError."""
    if not isinstance(value, list):
        raise ConfigError(f"{key}={value!r}: {wanted_at(key)}")
    return [_section(cls, item, f"{key}[{index}]") for index, item in enumerate(value)]


def _section(cls: type, item: Any, key: str) -> Any:
    if not isinstance(item, dict):
        raise ConfigError(f"{key}={item!r}: {wanted_at(key.rpartition('[')[0])}")
    check_keys(cls, item, f"{key}.")
    try:
        section = OmegaConf.merge(OmegaConf.structured(cls), item)
    except OmegaConfBaseException as error:
        wrong = f"{key}.{error.full_key}"
        raise ConfigError(f"{wrong}={item[error.full_key]!r}: {wanted_at(wrong)}") from error
    for missing in sorted(OmegaConf.missing_keys(section)):
        raise ConfigError(f"{key}.{missing}: missing; {wanted_at(key.rpartition('[')[0])}")
    return section
