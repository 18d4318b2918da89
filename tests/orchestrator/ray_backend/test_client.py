"""Reaching a cluster, or saying in one line why not."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from orchestrator.ray_backend.client import ClusterUnreachable, connect


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
