"""What is known and settled before a single worker starts."""

from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import ShardMissing
from data_pipeline.store.protocol import ObjectInfo, ObjectStore
from launch.errors import ConfigError
from launch.runs.preflight import prepare_dataset, settle_start
from tests.data_pipeline.datasets import put_dataset as put_tokens
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


class Listings:
    """A store that counts what it is asked."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.listed, self.read = store, [], 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str, after: str = "") -> list[ObjectInfo]:
        self.listed.append(prefix)
        return self._store.list(prefix, after)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.read += 1
        return self._store.get_range(key, start, length)


def test_shards_that_are_lacking_are_told_before_a_run_begins_and_one_listing_tells(tmp_path: Path) -> None:
    store = Listings(store_at(tmp_path))
    manifest = put_tokens(store, *([[1] * 200] * 300), vocab_size=4096)
    told: list[str] = []
    prepare_dataset(config_at(tmp_path, "data.dataset=tiny"), store, tell=told.append)
    assert (len(store.listed), len(told)) == (2, 1), "shards, and digests of their pages"
    assert store.read < 10

    store.delete(manifest.shards[250].key)
    store.put(manifest.shards[7].key, b"short")
    with pytest.raises(ShardMissing) as caught:
        prepare_dataset(config_at(tmp_path, "data.dataset=tiny"), store, tell=told.append)
    first = store.url(manifest.shards[7].key)
    assert str(caught.value).startswith(
        f"data.dataset=tiny: 2 objects of it missing or of another size, the first: {first}: has 5 bytes, the manifest says 400; rebuild"
    )
    prepare_dataset(config_at(tmp_path, "data.dataset=tiny", "data.on_corrupt=skip"), store, tell=told.append)
    assert told[1].startswith("warning: data.dataset=tiny: 2 objects of it missing")
    store.delete(manifest.pages.key)
    with pytest.raises(ShardMissing, match="3 objects of it"):
        prepare_dataset(config_at(tmp_path, "data.dataset=tiny"), store, tell=told.append)
