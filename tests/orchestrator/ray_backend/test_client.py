"""Reaching a cluster, or saying in one line why not."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.node.own_python import ROOT
from orchestrator.ray_backend.client import ClusterUnreachable, connect
from orchestrator.ray_backend.local.cluster import token_path


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(ClusterUnreachable, match=rf"no Ray cluster answers at 127.0.0.1:{port} .*ray start --head"):
        connect(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port"])
def test_an_address_that_is_none_names_the_form(address: str):
    with pytest.raises(ClusterUnreachable, match="use HOST:PORT"):
        connect(address)


def test_a_new_process_is_not_connected():
    """In a process of its own: this one may serve the tests that share a cluster."""
    code = "from orchestrator.ray_backend.client import is_connected; raise SystemExit(is_connected())"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.xdist_group("ray")
def test_the_folder_of_one_who_connects_is_nothing_to_what_runs_there(home: Path, cluster: str, tmp_path: Path):
    code = (
        "import sys; from orchestrator.ray_backend.client import connect; from pathlib import Path\n"
        "connect(sys.argv[1], token_path=Path(sys.argv[2]))\n"
        "import ray; print(ray.get(ray.remote(num_cpus=0)(lambda: sys.path).remote()))"
    )
    command = [sys.executable, "-c", code, cluster, str(token_path(home))]
    done = subprocess.run(command, cwd=tmp_path, check=True, timeout=120, capture_output=True, text=True)
    imported_from = ast.literal_eval(done.stdout)
    assert str(ROOT) in imported_from
    assert not {"", str(tmp_path), str(Path.home())} & set(imported_from)
