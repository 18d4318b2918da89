"""Which store a command speaks of, and how the next command finds it."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from launch.config.storage import storage_hint, storage_of, storage_to_look_at


def test_the_hint_names_a_store_only_where_it_is_not_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_hint(storage_of("~/.braid/store")) == ""
    assert storage_hint(storage_of(str(tmp_path / "x"))) == f" --storage {tmp_path}/x"
    assert shlex.split(storage_hint(storage_of(str(tmp_path / "my home's")))) == ["--storage", f"{tmp_path}/my home's"]
    assert storage_hint(storage_of("s3://bucket/p", "http://h:1")) == " --storage s3://bucket/p --endpoint-url http://h:1"


def test_a_command_that_only_reports_gives_up_early(tmp_path: Path) -> None:
    assert storage_to_look_at(str(tmp_path)) == replace(storage_of(str(tmp_path)), deadline_s=10.0)
