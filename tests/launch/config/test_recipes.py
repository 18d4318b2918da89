"""The recipes that ship with braid, and files that are none."""

from pathlib import Path

import pytest

from launch.config.budget import budget_lines
from launch.config.load import load_config
from launch.config.recipes import find_recipe, shipped_recipes
from launch.errors import ConfigError
from model.presets import PRESETS


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAID_STORAGE_ROOT", raising=False)


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_shipped_recipe_describes_a_run(recipe: str) -> None:
    config = load_config(recipe, [])
    assert config.parallel.world_size % min(config.resources.workers_per_node, config.parallel.world_size) == 0
    assert any(line.startswith("layout: ") for line in budget_lines(config))


def test_the_shipped_recipes_are_those_that_the_readme_promises() -> None:
    assert shipped_recipes() == [
        "eight_gpus",
        "olmo_hybrid_7b",
        "olmo_hybrid_7b_long_context",
        "olmo_hybrid_7b_midtrain",
        "one_gpu",
        "tiny",
    ]


def test_tiny_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("tiny", [])
    assert config.name == "tiny"
    assert config.storage.root == f"{tmp_path}/.braid/store"
    assert config.model == PRESETS["tiny"]


def test_the_seven_billion_recipe_is_the_published_one() -> None:
    config = load_config("olmo_hybrid_7b", [])
    assert config.tokens_per_step == 4_194_304
    assert config.model == PRESETS["olmo_hybrid_7b"]
    assert (config.optimizer.lr, config.optimizer.warmup_steps, config.optimizer.weight_decay) == (3e-4, 2000, 0.1)
    assert "model: 7,430,870,688 parameters, 32 layers (24 gdn, 8 attn)" in budget_lines(config)


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: [1", "not valid YAML"), ("- a\n- b\n", "holds a list"), ("a: 1\na: 2\n", "not valid YAML"), ("\udcff", "not valid YAML")],
)
def test_a_file_that_is_no_recipe_is_named(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=line) as caught:
        load_config(path, [])
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_is_answered_with_those_that_ship() -> None:
    with pytest.raises(ConfigError, match=r"^recipe 'tini': no such file; .* tiny \(did you mean tiny\?\)$"):
        find_recipe("tini")
