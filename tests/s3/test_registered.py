"""Token files in another bucket of a real S3 server, registered as they are."""

import io
import uuid
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import DataConfig, StorageConfig
from data_pipeline.dataset.inspect import inspect_dataset
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.dataset.progress import unwatched
from data_pipeline.dataset.register import Vocabulary, register_dataset
from data_pipeline.dataset.shards import lies_on_s3
from data_pipeline.errors import FilesInvalid, ShardCorrupt
from data_pipeline.read.loader import build_loader
from data_pipeline.store.open import open_beside
from data_pipeline.store.s3 import create_bucket, open_s3
from tests.data_pipeline.store.s3_world import set_credentials
from tests.s3.conftest import CephAccess

pytestmark = pytest.mark.s3
PARTS = [np.random.default_rng(number).integers(0, 1000, 40_000 + number).astype("<u2") for number in range(3)]


@pytest.fixture
def storage(ceph: CephAccess, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """Of braid's own bucket; another one has files of other people, and a directory here has one more."""
    set_credentials(monkeypatch, ceph.access_key, ceph.secret_key)
    storage = StorageConfig(root=f"s3://braid-tests/{uuid.uuid4().hex}", endpoint_url=ceph.endpoint_url)
    for root in ("s3://braid-tests", "s3://their-bucket"):
        create_bucket(replace(storage, root=root))
    return storage


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_files_of_another_bucket_and_of_a_directory_are_one_dataset(storage: StorageConfig, tmp_path: Path) -> None:
    store, theirs, prefix = open_s3(storage), open_s3(replace(storage, root="s3://their-bucket")), uuid.uuid4().hex
    theirs.put(f"{prefix}/deep/0.npy", PARTS[0].tobytes())
    theirs.put(f"{prefix}/deep/0.csv.gz", b"0,9,id")
    theirs.put(f"{prefix}/1.npy", npy(PARTS[1]))
    PARTS[2].tofile(tmp_path / "2.bin")
    elsewhere = open_beside(storage)
    places = [f"s3://their-bucket/{prefix}/**.npy", str(tmp_path / "2.bin")]
    vocabulary = Vocabulary(size=1000, eos_id=0)
    done = register_dataset(store=store, elsewhere=elsewhere, name="mine", places=places, vocabulary=vocabulary, progress=unwatched)
    manifest = load_manifest(store, "mine")
    assert manifest == done.manifest
    assert [(ref.root, ref.key) for ref in manifest.shards] == [
        (f"s3://their-bucket/{prefix}", "1.npy"),
        (f"s3://their-bucket/{prefix}", "deep/0.npy"),
        (str(tmp_path), "2.bin"),
    ]
    assert lies_on_s3(manifest, StorageConfig(root="/anywhere")), "so that blocks are kept"
    assert inspect_dataset(store=store, name="mine", elsewhere=elsewhere, reading=unwatched).problems == ()

    theirs.put(f"{prefix}/deep/0.npy", PARTS[0][::-1].tobytes())
    config = DataConfig(dataset="mine", seq_len=500)
    loader = build_loader(
        manifests=(manifest,),
        config=config,
        store=store,
        elsewhere=open_beside(storage),
        cache_dir=tmp_path / "cache",
        batch_rows=4,
        keeps_blocks=True,
    )
    reader = loader.readers[500][0]
    with closing(loader):
        for shard, part in ((0, PARTS[1]), (2, PARTS[2])):
            first = next(sample for sample in range(reader.table.num_samples) if reader.table.locate(sample).shard == shard)
            assert reader.row(first).tolist() == part[:501].tolist()
        changed = next(sample for sample in range(reader.table.num_samples) if reader.table.locate(sample).shard == 1)
        with pytest.raises(ShardCorrupt, match=rf"^s3://their-bucket/{prefix}/deep/0\.npy: bytes 0 to "):
            reader.row(changed)


def test_what_is_not_there_is_one_line(storage: StorageConfig) -> None:
    with pytest.raises(FilesInvalid, match=r"^s3://their-bucket/none/\*\*\.npy: no such file"):
        register_dataset(
            store=open_s3(storage),
            elsewhere=open_beside(storage),
            name="mine",
            places=["s3://their-bucket/none/**.npy"],
            vocabulary=Vocabulary(size=1000, eos_id=0),
            progress=unwatched,
        )
