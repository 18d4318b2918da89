"""What a Python of braid's imports, wherever and by whomever it is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.node.own_python import ROOT, code_stamp, own_python

SHADOWS = ("model", "launch", "orchestrator", "data_pipeline", "json", "typing", "ray", "torch", "numpy")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of somebody's own, full of names that braid and its libraries have too."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(f'{__file__} was imported')\n")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/__init__.py").write_text("raise SystemExit(f'{__file__} was imported')\n")
    return tmp_path


@pytest.mark.parametrize("path", [None, ".", "", f":{ROOT}", f"{ROOT}:", "relative:./other"])
def test_a_folder_where_braid_happens_to_be_started_is_not_imported_from(path: str | None, project: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ({} if path is None else {"PYTHONPATH": path})
    command = [sys.executable, "-P", "-m", "orchestrator.worker.main"]

    done = subprocess.run(command, env=own_python(inherited), cwd=project, capture_output=True, text=True, check=False, timeout=60)

    assert "BRAID_ORDER_FD: not set; workers are started by an agent" in done.stdout, done.stderr


def test_its_own_children_are_as_safe(project: Path) -> None:
    command = [sys.executable, "-c", "import json, model.config, sys; assert '' not in sys.path"]
    subprocess.run(command, env=own_python(os.environ), cwd=project, check=True, timeout=60)


def test_what_a_node_adds_by_its_full_path_comes_after_braid() -> None:
    made = own_python({"PYTHONPATH": "/opt/modules:here", "HOME": "/root"})

    assert made["PYTHONPATH"].split(":")[-1] == "/opt/modules"
    assert (made["HOME"], made["PYTHONSAFEPATH"]) == ("/root", "1")


def test_the_user_site_counts_only_where_braid_is_installed_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert own_python({})["PYTHONNOUSERSITE"] == "1"
    monkeypatch.setattr("site.getusersitepackages", lambda: str(tmp_path))
    monkeypatch.setattr("orchestrator.node.own_python._installed_in", lambda: tmp_path)
    assert "PYTHONNOUSERSITE" not in own_python({"PYTHONNOUSERSITE": "1"})


def test_code_that_is_edited_replaced_by_an_older_file_or_removed_has_another_stamp(tmp_path: Path) -> None:
    edited, removed = tmp_path / "model/build.py", tmp_path / "orchestrator/worker/main.py"
    for path in (edited, removed):
        path.parent.mkdir(parents=True)
        path.write_text("x = 1")
    stamps = [code_stamp(tmp_path)]
    (tmp_path / "model/__pycache__").mkdir()
    (tmp_path / "model/__pycache__/build.pyc").touch()
    assert code_stamp(tmp_path) == stamps[0]

    edited.write_text("x = 12")
    stamps.append(code_stamp(tmp_path))
    os.utime(edited, (0, 0))
    stamps.append(code_stamp(tmp_path))
    removed.unlink()
    stamps.append(code_stamp(tmp_path))

    assert len(set(stamps)) == 4
