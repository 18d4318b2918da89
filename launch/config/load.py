"""YAML recipe + dotlist overrides → RunConfig. The only importer of OmegaConf.

Whatever is wrong with them becomes one ConfigError line that begins with the dotted key and ends with the remedy.
"""

import dataclasses
import difflib
import enum
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, GrammarParseError, InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from launch.config.model_cost import ModelPlan
from launch.config.storage import absolute_root
from launch.errors import ConfigError
from model.presets import PRESETS
from orchestrator.config import RunConfig

RECIPES = Path(__file__).parents[1] / "recipes"
_PRESET = "preset"


def load_config(recipe: Path | str, overrides: Sequence[str]) -> RunConfig:
    """The run that a recipe describes: a YAML file, or the name of one shipped in launch/recipes, with `key.path=value` overrides on top.

    `model.preset` names the model in model.presets that the other model keys change. A directory as storage.root becomes absolute.
    Raises ConfigError.
    """
    settings = _merge_plain(_read_recipe(find_recipe(recipe)), overrides)
    return _as_run(_build(OmegaConf.structured(RunConfig), settings))


def change_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` with overrides on top. Raises ConfigError."""
    return _as_run(_build(OmegaConf.structured(config), _merge_plain(OmegaConf.create({}), overrides)))


def load_model_plan(preset: str, overrides: Sequence[str]) -> ModelPlan:
    """What `braid model` is asked about: a model of model.presets with overrides on top. Raises ConfigError."""
    settings = _merge_plain(OmegaConf.create({"model": {_PRESET: preset}}), overrides)
    plan = _build(OmegaConf.structured(ModelPlan), settings)
    assert isinstance(plan, ModelPlan)
    return plan


def _as_run(config: object) -> RunConfig:
    assert isinstance(config, RunConfig)
    return dataclasses.replace(config, storage=absolute_root(config.storage))


def dump_yaml(config: RunConfig) -> str:
    """The resolved configuration as a recipe that loads to the same."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(recipe: Path | str) -> Path:
    """The recipe at this path, or the shipped one of this name. Raises ConfigError."""
    for candidate in (Path(recipe).expanduser(), RECIPES / f"{recipe}.yaml"):
        if candidate.is_file():
            return candidate
    shipped = shipped_recipes()
    raise ConfigError(
        f"recipe {str(recipe)!r}: no such file; give a YAML file, or one of {', '.join(shipped)}{_near(str(recipe), shipped)}"
    )


def _read_recipe(path: Path) -> DictConfig:
    try:
        settings = OmegaConf.load(path)
    except (yaml.YAMLError, GrammarParseError) as error:
        raise ConfigError(f"recipe {path}: not valid YAML: {_one_line(error)}; fix the file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: can't be read: {_one_line(error)}; give a readable YAML file") from error
    if not isinstance(settings, DictConfig):
        raise ConfigError(f"recipe {path}: holds {type(settings).__name__}, not `key: value` lines; see {RECIPES / 'tiny.yaml'}")
    return settings


def _merge_plain(settings: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings with the overrides on top, not yet checked against RunConfig."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {override!r}: not of the form key=value; for example train.num_steps=200")
        try:
            addition = OmegaConf.from_dotlist([override if value else f"{key}=''"])  # YAML would read nothing as null
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{key}: its value is not valid YAML: {_one_line(error)}; quote it") from error
        settings = typing.cast(DictConfig, OmegaConf.merge(settings, addition))
    return settings


def _build(base: DictConfig, settings: DictConfig) -> object:
    """`settings`, checked, on top of `base`, as what `base` is a structure of."""
    try:
        plain = OmegaConf.to_container(settings, resolve=True)
    except InterpolationResolutionError as error:
        raise ConfigError(f"{error.full_key}: {_one_line(error)}; fix the ${{…}} reference or set {error.full_key}=VALUE") from error
    assert isinstance(plain, dict)
    cls = OmegaConf.get_type(base)
    assert cls is not None, "a structured config"
    _check_keys(cls, plain, "")
    try:
        model = _preset(plain)
        merged = OmegaConf.merge(base, {"model": model} if model else {}, _with_every_section(cls, base, plain))
        return OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key}: missing; set it in the recipe, or with {error.full_key}=VALUE{_hint_of_missing(str(error.full_key))}"
        ) from error
    except OmegaConfBaseException as error:
        raise _wrong_value(error, plain) from error
    except ValueError as error:  # raised by the configs themselves, which name the key and the remedy
        raise ConfigError(_one_line(error)) from error


def _preset(plain: dict[Any, Any]) -> Any:
    """Takes `model.preset` out of `plain` and returns the model that it names; None where no preset is named."""
    if not isinstance(plain.get("model"), dict) or _PRESET not in plain["model"]:
        return None
    name = plain["model"].pop(_PRESET)
    if name not in PRESETS:
        raise ConfigError(f"model.preset={name!r}: no such model{_near(str(name), list(PRESETS))}; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _with_every_section(cls: type, base: DictConfig, plain: dict[Any, Any]) -> dict[Any, Any]:
    """A section that is left out is an empty one: its defaults count, and what it must have is missed by its own key."""
    sections = [field.name for field in dataclasses.fields(cls) if field.name != "name"]
    return {section: {} for section in sections if OmegaConf.is_missing(base, section)} | plain


def _check_keys(cls: type, plain: dict[Any, Any], where: str) -> None:
    """Every key must be a field; the first that is not is told with its nearest neighbours."""
    hints = typing.get_type_hints(cls)
    allowed = _keys(cls, where)
    for key, value in plain.items():
        if key not in allowed:
            meant = ("" if where else _in_a_section(cls, str(key))) or _near(str(key), allowed, where)
            raise ConfigError(f"{where}{key}: no such key{meant}; {where or 'a recipe'} has {', '.join(allowed)}")
        if value == "???":  # what OmegaConf calls missing
            continue
        hint = hints.get(key)
        if typing.get_origin(hint) is tuple:
            plain[key] = _sections(typing.get_args(hint)[0], value, f"{where}{key}")
        elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}{key}={value!r}: {_wanted(f'{where}{key}')}")
            _check_keys(hint, value, f"{where}{key}.")


def _keys(cls: type, where: str) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] + ([_PRESET] if where == "model." else [])


def _in_a_section(cls: type, key: str) -> str:
    """What was meant by a key of a section that is said without it."""
    sections = {
        name: hint for name, hint in typing.get_type_hints(cls).items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)
    }
    meant = [f"{name}.{key}" for name, section in sections.items() if key in _keys(section, f"{name}.")]
    return f", did you mean {' or '.join(meant)}?" if meant else ""


def _sections(cls: type, value: Any, key: str) -> list[Any]:
    """A list of sections, each checked and typed, since OmegaConf takes the items of a list as they come."""
    if not isinstance(value, list):
        raise ConfigError(f"{key}={value!r}: {_wanted(key)}")
    return [_section(cls, item, f"{key}[{index}]") for index, item in enumerate(value)]


def _section(cls: type, item: Any, key: str) -> Any:
    if not isinstance(item, dict):
        raise ConfigError(f"{key}={item!r}: {_wanted(key.rpartition('[')[0])}")
    _check_keys(cls, item, f"{key}.")
    try:
        section = OmegaConf.merge(OmegaConf.structured(cls), item)
    except OmegaConfBaseException as error:
        wrong = f"{key}.{error.full_key}"
        raise ConfigError(f"{wrong}={item[error.full_key]!r}: {_wanted(wrong)}") from error
    for missing in sorted(OmegaConf.missing_keys(section)):
        raise ConfigError(f"{key}.{missing}: missing; {_wanted(key.rpartition('[')[0])}")
    return section


def _wrong_value(error: OmegaConfBaseException, plain: dict[Any, Any]) -> ConfigError:
    key = str(error.full_key)
    found: Any = plain
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(error, ConfigKeyError):
        return ConfigError(f"{key}: no such key; see `braid submit RECIPE --dry-run` for those that exist")
    return ConfigError(f"{key}={found!r}: {_wanted(key)}")


def _wanted(key: str) -> str:
    """What the field at a dotted key takes, in words."""
    hint: Any = RunConfig
    for part in key.split("."):
        name, bracket, _ = part.partition("[")
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
        hint = typing.get_args(hint)[0] if bracket else hint
    if typing.get_origin(hint) is tuple:
        return f"use a list of sections, such as {key}=[{{{dataclasses.fields(typing.get_args(hint)[0])[0].name}: VALUE}}]"
    if dataclasses.is_dataclass(hint):
        example = _PRESET if key == "model" else dataclasses.fields(hint)[0].name
        return f"a section, not a value; set its keys, such as {key}.{example}=VALUE"
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return f"use one of {', '.join(map(str, typing.get_args(hint)))}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"use one of {', '.join(str(member.value) for member in hint)}"
    words = {int: "use a whole number", float: "use a number", bool: "use true or false", str: "use a text"}
    return words.get(hint, "wrong type") if isinstance(hint, type) else f"use {hint}"


def _hint_of_missing(key: str) -> str:
    if key.startswith("model."):
        return f"; or choose a whole model with model.preset={'|'.join(PRESETS)}"
    return ""


def _near(name: str, choices: Sequence[str], where: str = "") -> str:
    matches = difflib.get_close_matches(name, choices, n=1)
    return f", did you mean {where}{matches[0]}?" if matches else ""


def _one_line(error: Exception) -> str:
    """The text of an error without the lines that OmegaConf appends for its own developers."""
    return " ".join(str(error).partition("\n    full_key:")[0].split())
