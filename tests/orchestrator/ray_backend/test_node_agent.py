"""What an agent learns of its node's GPUs. What else it does shows in test_agents.py and test_runs.py, on a real cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.ray_backend.node_agent import agent_class, uuids_of


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in, first on the path."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "nvidia-smi"


def test_gpus_are_known_by_what_stays_when_their_numbers_change(nvidia_smi: Path):
    nvidia_smi.write_text("#!/bin/sh\nprintf '0, GPU-aa\\n1, GPU-bb\\n2, GPU-cc\\n'\n")
    nvidia_smi.chmod(0o755)

    assert uuids_of(("2", "0", "GPU-dd")) == ("GPU-cc", "GPU-aa", "GPU-dd")


def test_a_node_that_can_not_say_so_has_gpus_without_names(nvidia_smi: Path):
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    nvidia_smi.chmod(0o755)

    assert uuids_of(("0", "1")) == ()


def test_the_actor_class_is_made_once():
    """Ray takes 14 ms apiece to make one, which a run on a thousand nodes would wait for."""
    assert agent_class() is agent_class()
