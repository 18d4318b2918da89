"""One real Ray cluster for all tests of this folder, in one process of pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.ray_backend import client
from orchestrator.ray_backend.local import cluster as local_cluster


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def cluster(home: Path) -> Iterator[str]:
    """The address of a cluster of three nodes, which this process is connected to."""
    address = local_cluster.start_local_cluster(home, 3)
    try:
        client.connect(address, token_path=local_cluster.token_path(home))
        yield address
        client.disconnect()
    finally:
        local_cluster.stop_local_cluster(home)
