"""What a checkpoint's manifest holds."""

import hashlib
import json
from dataclasses import replace

import pytest

from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.errors import CheckpointCorrupt
from orchestrator.records.commit_log import Commit
from orchestrator.records.manifest import (
    CheckpointManifest,
    DataPosition,
    FileDigest,
    TrainingTerms,
    read_manifest,
    write_manifest,
)
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import MODEL

MANIFEST = CheckpointManifest(
    run="first",
    attempt=1,
    step=10,
    origin="trained",
    model=MODEL,
    training=TrainingTerms(
        data_position=DataPosition(epoch=0, index=40),
        layout=ParallelConfig(dp_shard=2),
        training_digest="d" * 64,
        dataset_digest="a" * 64,
    ),
    files=(FileDigest(name=".metadata", size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest()),),
    torch_version="2.13.0",
    created_at_s=1.5,
)


def test_a_manifest_reads_back_as_it_was_written():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)

    assert entry.manifest_key == "checkpoints/step-000000010-a0001/manifest.json"
    assert read_manifest(store, entry) == MANIFEST


def test_a_manifest_that_is_not_the_committed_one_is_refused():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)
    write_manifest(store, replace(MANIFEST, created_at_s=2.5))

    with pytest.raises(CheckpointCorrupt, match=r"^memory:checkpoints/step-000000010-a0001/manifest.json is not what was written"):
        read_manifest(store, entry)


def test_a_missing_manifest_is_refused():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)
    store.delete(entry.manifest_key)

    with pytest.raises(CheckpointCorrupt, match=r"manifest.json is missing$"):
        read_manifest(store, entry)


def stored(data: bytes) -> tuple[MemoryStore, Commit]:
    """A store with these bytes as a manifest, and the entry that commits it."""
    commit = Commit(attempt=1, step=10, manifest_key="m.json", manifest_sha256=hashlib.sha256(data).hexdigest())
    return MemoryStore(objects={"m.json": data}), commit


def test_a_manifest_of_version_3_is_read_by_every_later_braid():
    """The bytes that the version before this test wrote."""
    model = json.loads(codec.to_json(MODEL))
    written = {
        "attempt": 1,
        "created_at_s": 1.5,
        "files": [{"name": ".metadata", "sha256": hashlib.sha256(b"abc").hexdigest(), "size_bytes": 3}],
        "model": model,
        "origin": "trained",
        "run": "first",
        "step": 10,
        "torch_version": "2.13.0",
        "training": {
            "data_position": {"epoch": 0, "index": 40},
            "dataset_digest": "a" * 64,
            "layout": {"cp": 1, "dp_replicate": 1, "dp_shard": 2, "tp": 1},
            "training_digest": "d" * 64,
        },
        "version": 3,
    }

    assert read_manifest(*stored(json.dumps(written).encode())) == MANIFEST


@pytest.mark.parametrize("version", [2, 4, None])
def test_a_manifest_of_another_version_is_refused_even_if_its_fields_are_the_same(version: int | None):
    plain = json.loads(codec.to_json(MANIFEST)) | {"version": version}

    with pytest.raises(
        codec.DecodeError, match=rf"^memory:m.json: is of version {version}, this braid reads 3; use the braid that wrote it$"
    ):
        read_manifest(*stored(json.dumps(plain).encode()))


def test_one_bad_transfer_does_not_condemn_a_checkpoint():
    store = MemoryStore()
    entry = write_manifest(store, MANIFEST)
    good, reads = store.objects[entry.manifest_key], []

    def garble_the_first_read(operation: str, key: str) -> None:
        reads.append(operation)
        store.objects[key] = good if len(reads) > 1 else good[:-1] + b"?"

    store.fault = garble_the_first_read

    assert read_manifest(store, entry) == MANIFEST
