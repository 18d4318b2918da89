"""YAML recipe + dotlist overrides → RunConfig.

Whatever is wrong with them becomes one ConfigError line that begins with the dotted key and ends with the remedy.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.config import DATASET
from launch.config.keys import PRESET, near
from launch.config.model_cost import ModelPlan
from launch.config.overrides import Tree, keys_said, merged, with_override
from launch.config.recipes import find_recipe, read_recipe
from launch.config.storage import absolute_root
from launch.config.text import dump, resolved
from launch.config.typed import MissingKey, section
from launch.errors import ConfigError
from model.presets import PRESETS
from orchestrator.config import RunConfig


def load_config(recipe: Path | str, overrides: Sequence[str]) -> RunConfig:
    """The run that a recipe describes: a YAML file, or the name of one shipped in launch/recipes, with `key.path=value` overrides on top.

    `model.preset` names the model in model.presets that the other model keys change. A directory as storage.root becomes absolute;
    where nothing is said of it, it is that of BRAID_STORAGE_ROOT.
    Raises ConfigError.
    """
    root = os.environ.get("BRAID_STORAGE_ROOT")
    usual: Tree = {"storage": {"root": root}} if root else {}
    return _as_run(_build(RunConfig, merged(usual, read_recipe(find_recipe(recipe))), overrides))


def change_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """`config` with overrides on top. Raises ConfigError."""
    base = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return _as_run(_build(RunConfig, {}, overrides, base))


def load_model_plan(preset: str, overrides: Sequence[str]) -> ModelPlan:
    """A model of model.presets with overrides on top, and what else decides its cost. Raises ConfigError."""
    plan = _build(ModelPlan, {"model": {PRESET: preset}}, overrides)
    assert isinstance(plan, ModelPlan)
    return plan


def dump_yaml(config: RunConfig) -> str:
    """The resolved configuration as a recipe that loads to the same."""
    tree = dataclasses.asdict(config)
    if config.data.sources:
        del tree["data"]["dataset"]
    return dump(tree)


def _as_run(config: object) -> RunConfig:
    assert isinstance(config, RunConfig)
    return dataclasses.replace(config, storage=absolute_root(config.storage))


def _build(cls: type, settings: Tree, overrides: Sequence[str], base: Mapping[str, Any] | None = None) -> object:
    """An object of `cls`: the settings with the overrides on top, and where both say nothing, `base`. Raises ConfigError."""
    _refuse_both(_data_of(settings))
    for override in overrides:
        settings = with_override(cls, settings, override, base)
    plain = resolved(_with_one_of_both(settings, overrides))
    model = _preset(plain)
    try:
        return section(cls, plain, "", {**(base or {}), **({"model": model} if model else {})})
    except MissingKey as error:
        if not error.key.startswith("model."):
            raise
        raise ConfigError(f"{error}; or choose a whole model with model.preset={'|'.join(PRESETS)}") from error


def _with_one_of_both(settings: Tree, overrides: Sequence[str]) -> Tree:
    """What overrides say of data.dataset or data.sources takes the place of the other, which the recipe or the run may have."""
    said, data = keys_said("data", overrides), _data_of(settings)
    _refuse_both({key: data[key] for key in said if key in data})
    if "dataset" in said:
        return {**settings, "data": {**data, "sources": []}}
    if "sources" in said and data["sources"]:
        return {**settings, "data": {**data, "dataset": DATASET}}
    return settings


def _data_of(settings: Tree) -> Tree:
    data = settings.get("data")
    return data if isinstance(data, dict) else {}


def _refuse_both(data: Tree) -> None:
    """Raises ConfigError where data.dataset is given beside data.sources, also where it names what is the default."""
    if "dataset" in data and data.get("sources"):
        raise ConfigError(f"data.dataset={data['dataset']}: data.sources names datasets too; leave one of the two out")


def _preset(plain: Tree) -> Any:
    """Takes `model.preset` out of `plain` and returns the model that it names; None where no preset is named."""
    if not isinstance(plain.get("model"), dict) or PRESET not in plain["model"]:
        return None
    name = str(plain["model"].pop(PRESET))
    if name not in PRESETS:
        raise ConfigError(f"model.preset={name!r}: no such model{near(name, list(PRESETS))}; use one of {', '.join(PRESETS)}")
    return PRESETS[name]
