"""Which store a command speaks of, and how the next command finds it."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.paths import HomeUnknown
from data_pipeline.store.open import open_store
from launch.config.recipes import find_recipe
from launch.config.storage import storage_hint, storage_of, storage_to_look_at
from orchestrator.node.home import home_directory
from orchestrator.worker.environment import cache_dir


def test_the_hint_names_a_store_only_where_it_is_not_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_hint(storage_of("~/.braid/store")) == ""
    assert storage_hint(storage_of(str(tmp_path / "x"))) == f" --storage {tmp_path}/x"
    assert shlex.split(storage_hint(storage_of(str(tmp_path / "my home's")))) == ["--storage", f"{tmp_path}/my home's"]
    assert storage_hint(storage_of("s3://bucket/p", "http://h:1")) == " --storage s3://bucket/p --endpoint-url http://h:1"


def test_a_command_that_only_reports_gives_up_early(tmp_path: Path) -> None:
    assert storage_to_look_at(str(tmp_path)) == replace(storage_of(str(tmp_path)), deadline_s=10.0)


@pytest.mark.parametrize("root", ["~/store", "~nobody-of-this-name/store"])
def test_a_home_that_nobody_knows_is_one_line(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    for ask in (lambda: storage_of(root), lambda: open_store(StorageConfig(root=root)), lambda: find_recipe(root)):
        with pytest.raises(HomeUnknown, match=r"~.*/store: .*set HOME, or give absolute paths"):
            ask()
    for home in ("", root):
        monkeypatch.setenv("BRAID_HOME", home)
        for ask in (home_directory, lambda: cache_dir(os.environ)):
            with pytest.raises(HomeUnknown):
                ask()


def test_a_store_by_its_whole_path_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    assert storage_hint(storage_of(str(tmp_path))) == f" --storage {tmp_path}"
