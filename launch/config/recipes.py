"""Recipes: YAML files that describe a run, among them those that ship with braid."""

from pathlib import Path
from typing import Any

import yaml

from data_pipeline.paths import expanded
from launch.config.keys import near
from launch.config.text import one_line, parse_yaml
from launch.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "recipes"


def shipped_recipes() -> list[str]:
    """Names, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(recipe: Path | str) -> Path:
    """The recipe at this path, or the shipped one of this name. Raises ConfigError."""
    for candidate in (expanded(str(recipe)), RECIPES / f"{recipe}.yaml"):
        if candidate.is_file():
            return candidate
    shipped = shipped_recipes()
    raise ConfigError(f"recipe {str(recipe)!r}: no such file; give a YAML file, or one of {', '.join(shipped)}{near(str(recipe), shipped)}")


def read_recipe(path: Path) -> dict[Any, Any]:
    """The settings as they are written, not checked yet. Raises ConfigError where the file is no YAML mapping."""
    try:
        settings = parse_yaml(path.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path}: not valid YAML: {one_line(error)}; fix the file") from error
    except OSError as error:
        raise ConfigError(f"recipe {path}: can't be read: {one_line(error)}; give a readable YAML file") from error
    if not isinstance(settings, dict):
        what = "a list" if isinstance(settings, list) else "a text"
        raise ConfigError(f"recipe {path}: holds {what}, not `key: value` lines; see {RECIPES / 'tiny.yaml'}")
    return settings
