"""YAML recipe + dotlist overrides → RunConfig.

Whatever is wrong with them becomes one ConfigError line that begins with the dotted key and ends with the remedy.
"""

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from launch.config.check import check_keys, require_finite
from launch.config.keys import PRESET, near, wanted_at
from launch.config.model_cost import ModelPlan
from launch.config.recipes import find_recipe, one_line, read_recipe
from launch.config.storage import absolute_root
from launch.errors import ConfigError
from model.presets import PRESETS
from orchestrator.config import RunConfig


def load_config(recipe: Path | str, overrides: Sequence[str]) -> RunConfig:
    """The run that a recipe describes: a YAML file, or the name of one shipped in launch/recipes, with `key.path=value` overrides on top.

    `model.preset` names the model in model.presets that the other model keys change. A directory as storage.root becomes absolute.
    Raises ConfigError.
    """
    settings = _with_overrides(read_recipe(find_recipe(recipe)), overrides)
    return _as_run(_build(OmegaConf.structured(RunConfig), settings))


def change_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` with overrides on top. Raises ConfigError."""
    return _as_run(_build(OmegaConf.structured(config), _with_overrides(OmegaConf.create({}), overrides)))


def load_model_plan(preset: str, overrides: Sequence[str]) -> ModelPlan:
    """A model of model.presets with overrides on top, and what else decides its cost. Raises ConfigError."""
    settings = _with_overrides(OmegaConf.create({"model": {PRESET: preset}}), overrides)
    plan = _build(OmegaConf.structured(ModelPlan), settings)
    assert isinstance(plan, ModelPlan)
    return plan


def _as_run(config: object) -> RunConfig:
    assert isinstance(config, RunConfig)
    return dataclasses.replace(config, storage=absolute_root(config.storage))


def dump_yaml(config: RunConfig) -> str:
    """The resolved configuration as a recipe that loads to the same."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _with_overrides(settings: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The settings with the overrides on top, not checked yet. Raises ConfigError for what is no override."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"override {override!r}: not of the form key=value; for example train.num_steps=200")
        try:
            addition = OmegaConf.from_dotlist([override if value else f"{key}=''"])  # YAML would read nothing as null
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"{key}: its value is not valid YAML: {one_line(error)}; quote it") from error
        settings = typing.cast(DictConfig, OmegaConf.merge(settings, addition))
    return settings


def _build(base: DictConfig, settings: DictConfig) -> object:
    """An object of the class that `base` was made of, with `settings` on top of its values. Raises ConfigError."""
    try:
        plain = OmegaConf.to_container(settings, resolve=True)
    except InterpolationResolutionError as error:
        raise ConfigError(f"{error.full_key}: {one_line(error)}; fix the ${{…}} reference or set {error.full_key}=VALUE") from error
    assert isinstance(plain, dict)
    cls = OmegaConf.get_type(base)
    assert cls is not None, "a structured config"
    check_keys(cls, plain, "")
    try:
        model = _preset(plain)
        merged = OmegaConf.merge(base, {"model": model} if model else {}, _with_every_section(cls, base, plain))
        require_finite(OmegaConf.to_container(merged))
        return OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key}: missing; set it in the recipe, or with {error.full_key}=VALUE{_hint_of_missing(str(error.full_key))}"
        ) from error
    except OmegaConfBaseException as error:
        raise _wrong_value(error, plain) from error
    except ValueError as error:  # raised by the configs themselves, which name the key and the remedy
        raise ConfigError(one_line(error)) from error


def _preset(plain: dict[Any, Any]) -> Any:
    """Takes `model.preset` out of `plain` and returns the model that it names; None where no preset is named."""
    if not isinstance(plain.get("model"), dict) or PRESET not in plain["model"]:
        return None
    name = plain["model"].pop(PRESET)
    if name not in PRESETS:
        raise ConfigError(f"model.preset={name!r}: no such model{near(str(name), list(PRESETS))}; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _with_every_section(cls: type, base: DictConfig, plain: dict[Any, Any]) -> dict[Any, Any]:
    """A section that is left out is an empty one: its defaults count, and what it must have is missed by its own key."""
    sections = [field.name for field in dataclasses.fields(cls) if field.name != "name"]
    return {section: {} for section in sections if OmegaConf.is_missing(base, section)} | plain


def _wrong_value(error: OmegaConfBaseException, plain: dict[Any, Any]) -> ConfigError:
    key = str(error.full_key)
    found: Any = plain
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(error, ConfigKeyError):
        return ConfigError(f"{key}: no such key; see `braid submit RECIPE --dry-run` for those that exist")
    return ConfigError(f"{key}={found!r}: {wanted_at(key)}")


def _hint_of_missing(key: str) -> str:
    if key.startswith("model."):
        return f"; or choose a whole model with model.preset={'|'.join(PRESETS)}"
    return ""
