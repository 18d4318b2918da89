"""launch.train: the same worker without Ray, controller or agent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.store.local import LocalStore
from launch.errors import ConfigError, UserError
from launch.train import USAGE, keep_config, read_arguments
from orchestrator import codec
from orchestrator.records.commit_log import open_commit_log
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import proof_on, run_store_of, tiny_config, write_dataset

OF_TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def recipe_of(config_json: bytes, directory: Path) -> Path:
    recipe = directory / "recipe.yaml"
    recipe.write_bytes(config_json)  # JSON is YAML
    return recipe


def test_without_torchrun_it_says_how_to_start_it():
    with pytest.raises(UserError) as caught:
        read_arguments(["tiny"], {})

    assert str(caught.value) == USAGE


def test_another_number_of_processes_than_the_layout_is_one_line(tmp_path: Path):
    recipe = recipe_of(codec.to_json(tiny_config(tmp_path, dp_shard=1)), tmp_path)

    with pytest.raises(ConfigError, match=r"^parallel\.dp_shard=1: .*--nproc-per-node$"):
        read_arguments([str(recipe)], OF_TORCHRUN)


def test_a_configuration_is_kept_once_and_again_when_it_changes(tmp_path: Path):
    store, config = MemoryStore(), tiny_config(tmp_path)
    keep_config(store, config)
    keep_config(store, config)
    keep_config(store, tiny_config(tmp_path, num_steps=9))

    assert list(store.objects) == ["config/0001.json", "config/0002.json"]


def test_torchrun_trains_as_the_next_attempt_of_the_run(tmp_path: Path):
    config = tiny_config(tmp_path / "store", num_steps=4, every_steps=2)
    write_dataset(LocalStore(tmp_path / "store"))
    open_commit_log(run_store_of(config)).fence(1)
    recipe = recipe_of(codec.to_json(config), tmp_path)

    log = tmp_path / "log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "launch.train", str(recipe)],
            env=os.environ | {"BRAID_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=100,
            check=False,
        )

    assert done.returncode == 0, log.read_text()
    assert open_commit_log(run_store_of(config)).trusted()[0].attempt == 2
    assert proof_on(config).ok
