"""A command line with a store and a home of its own."""

from pathlib import Path

import pytest

from tests.launch.command_line import Braid


@pytest.fixture
def braid(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Braid:
    monkeypatch.setenv("BRAID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BRAID_STORAGE_ROOT", str(tmp_path / "store"))
    monkeypatch.delenv("BRAID_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return Braid(tmp_path / "store", capsys)
