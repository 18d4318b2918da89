"""Registered files whose file system is away for a while, or for good."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import DataConfig, StorageConfig
from data_pipeline.dataset.inspect import lacking_objects
from data_pipeline.dataset.manifest import DatasetManifest, load_manifest
from data_pipeline.dataset.progress import unwatched
from data_pipeline.dataset.register import Vocabulary, register_dataset
from data_pipeline.errors import ShardMissing
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.store.open import open_beside, open_store
from data_pipeline.store.protocol import StoreUnavailable


class Mounted:
    """A file system at /…/mnt/disk with the tokens of a dataset, which are registered by a path below it."""

    def __init__(self, path: Path, *, named: str) -> None:
        self.path, self.disk, self.away = path, path / "mnt" / "disk", path / "away"
        self.storage = StorageConfig(root=str(path / "store"), deadline_s=0.01)
        (self.disk / "web" / "deep").mkdir(parents=True)
        for number, name in enumerate(("a.npy", "deep/b.npy")):
            np.random.default_rng(number).integers(1, 1000, 5000).astype("<u2").tofile(self.disk / "web" / name)
        register_dataset(
            store=open_store(self.storage),
            elsewhere=open_beside(self.storage),
            name="web",
            places=[str(path / named)],
            vocabulary=Vocabulary(size=1000, eos_id=0),
            progress=unwatched,
        )

    @property
    def manifest(self) -> DatasetManifest:
        return load_manifest(open_store(self.storage), "web")

    def unmount(self, *, leaves_directory: bool = True) -> None:
        self.disk.rename(self.away)
        if leaves_directory:
            self.disk.mkdir()

    def mount(self) -> None:
        if self.away.exists():
            self.disk.rmdir()
            self.away.rename(self.disk)

    def loader(self, *, deadline_s: float) -> Loader:
        storage = StorageConfig(root=self.storage.root, deadline_s=deadline_s)
        store, elsewhere = open_store(storage), open_beside(storage)
        config = DataConfig(dataset="web", seq_len=16)
        return build_loader(
            manifests=(self.manifest,), config=config, store=store, elsewhere=elsewhere, cache_dir=self.path / "cache", batch_rows=64
        )


NAMED = ["mnt/disk", "mnt/disk/web", "mnt/disk/web/**", "mnt/**/*.npy"]


@pytest.mark.parametrize("named", NAMED)
def test_reading_goes_on_where_a_file_system_comes_back(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = Mounted(tmp_path, named=named)
    with closing(mounted.loader(deadline_s=0.01)) as undisturbed:
        expected = undisturbed.batch(3).hashes
    mounted.unmount()
    waits: list[float] = []

    def mount_in_time(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            mounted.mount()

    monkeypatch.setattr("data_pipeline.store.local.time.sleep", mount_in_time)
    with closing(mounted.loader(deadline_s=60.0)) as loader:
        assert loader.batch(3).hashes == expected
    assert len(waits) >= 3


def ask(act: Callable[[], object]) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize("leaves_directory", [True, False])
@pytest.mark.parametrize("named", NAMED)
def test_a_file_system_that_stays_away_is_an_outage_and_told_with_what_to_mount(named: str, leaves_directory: bool, tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, named=named)
    mounted.unmount(leaves_directory=leaves_directory)
    with closing(mounted.loader(deadline_s=0.01)) as loader:
        told = [ask(lambda: loader.batch(1))]
    told.append(ask(lambda: lacking_objects(mounted.manifest, open_store(mounted.storage), open_beside(mounted.storage))))
    for line in told:
        assert "is its file system mounted? Mount it again" in line
        assert line.startswith((f"{mounted.disk}", f"{mounted.disk.parent}: is empty"))
        assert "\n" not in line


def test_a_file_that_is_gone_beside_others_is_missing(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path, named="mnt/disk")
    (mounted.disk / "web/a.npy").unlink()
    (found,) = lacking_objects(mounted.manifest, open_store(mounted.storage), open_beside(mounted.storage))
    assert found.startswith(f"{mounted.disk}/web/a.npy: is missing; restore this file")
    with closing(mounted.loader(deadline_s=0.01)) as loader, pytest.raises(ShardMissing, match=r"a\.npy: is in the manifest"):
        loader.batch(1)
