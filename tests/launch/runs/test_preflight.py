"""What is known and settled before a single worker starts."""

from pathlib import Path

import pytest

from launch.errors import ConfigError
from launch.runs.preflight import prepare_dataset, settle_start
from tests.launch.stored_runs import config_at, put_checkpoint, put_dataset, store_at, stored_run


def test_the_default_dataset_is_built_once_and_then_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(*, store: object, name: str, progress: object) -> object:
        built.append(name)
        return put_dataset(tmp_path)

    monkeypatch.setattr("data_pipeline.dataset.build.build_default_dataset", build)
    told: list[str] = []
    for _ in range(2):
        prepare_dataset(config_at(tmp_path), store_at(tmp_path), tell=told.append)
    assert built == ["python-stdlib"]
    line = "data: 204,800 tokens are 2.05 epochs of python-stdlib: rows of 128 tokens: 781; 31 of 100,000 tokens (0.031 %) are in no row"
    assert told == ["building dataset python-stdlib from the Python standard library's source …", line, line]


def test_a_submission_settles_where_it_begins(tmp_path: Path) -> None:
    """What `newest` was is written down, so that a second attempt begins there too."""
    put_checkpoint(tmp_path, stored_run(tmp_path), attempt=1, step=5)
    config = config_at(tmp_path, "name=second", "start.run=first")

    settled = settle_start(config, store_at(tmp_path))

    assert settled.start.step == 5
    assert settle_start(config_at(tmp_path), store_at(tmp_path)) == config_at(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^start.run=first, step 5: embed.weight is \[4096, 128\] there and \[5000, 128\] in this run's model"
    ):
        settle_start(config_at(tmp_path, "name=second", "start.run=first", "model.vocab_size=5000"), store_at(tmp_path))
