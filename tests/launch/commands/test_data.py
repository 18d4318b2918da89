"""`braid data`: datasets are made and looked into."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.dataset.manifest import manifest_key, manifest_to_json
from data_pipeline.store.open import open_store
from launch.config.storage import storage_of
from tests.data_pipeline.datasets import put_dataset
from tests.launch.command_line import Braid


def test_data_is_built_and_looked_into(braid: Braid, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    done = braid("data", "build", "mine", str(tmp_path / "corpus.txt"), "--vocab-size", "300")
    assert (done.status, done.out) == (0, "mine\n")
    assert "use it with data.dataset=mine" in done.err
    assert braid("data", "build", "mine").err.startswith(f"braid: {braid.root}/datasets/mine/manifest.json: this dataset exists already")
    done = braid("data", "inspect", "mine", "--verify")
    assert done.status == 0
    assert "begins with: 'the quick brown fox" in done.out
    assert "verified: all 1 shards match their digests, and every token is in the vocabulary" in done.out
    assert "documents: 1; " in done.out
    assert "are in no row" in done.out
    assert ": 1 of 1 shards are shorter than a row" in braid("data", "inspect", "mine", "--seq-len", "1000000").out
    assert "verified" not in braid("data", "inspect", "mine").out
    shard = next((braid.root / "datasets/mine/shards").iterdir())
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert braid("data", "inspect", "mine", "--verify").status == 1


@pytest.mark.parametrize("command", ["build", "inspect"])
def test_a_dataset_name_that_could_reach_outside_is_one_line(command: str, braid: Braid) -> None:
    done = braid("data", command, "../x")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("braid: NAME='../x': use up to 100 letters")


def test_a_shard_with_the_header_of_an_npy_file_is_refused_before_a_run_begins(braid: Braid) -> None:
    """Its size and its digest are right."""
    store = open_store(storage_of(str(braid.root)))
    manifest = put_dataset(store, list(range(1000)), name="mine")
    data = b"\x93NUMPY" + store.get(manifest.shards[0].key)[6:]
    store.put(manifest.shards[0].key, data)
    shard = replace(manifest.shards[0], sha256=hashlib.sha256(data).hexdigest())
    store.put(manifest_key("mine"), manifest_to_json(replace(manifest, shards=(shard,))))
    for command in (("submit", "tiny", "data.dataset=mine"), ("submit", "tiny", "data.dataset=mine", "--dry-run")):
        done = braid(*command)
        assert done.status == 2
        assert done.err.startswith(f"braid: data.dataset=mine: {braid.root}/{shard.key}: begins like an .npy file")
        assert done.err.count("\n") == 1
    done = braid("data", "inspect", "mine", "--verify")
    assert (done.status, "begins like an .npy file" in done.err) == (1, True)
