"""Joining a cluster that Ray can't join: a line, and not the end of the process that asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ray_backend.client import ClusterUnreachable, connect
from orchestrator.ray_backend.local import cluster as local_cluster
from orchestrator.ray_backend.session import CantJoin, join_tried, why_it_ended

ABORTED = """[2026-11-28 23:15:10,001 W 26473 26473] gcs.cc:1: trying again
[2026-11-28 23:15:11,951 C 26473 26473] raylet_ipc_client.cc:85: Failed to connect to socket at address:/tmp/braid-x/ray/sockets/raylet
*** StackTrace Information ***
/site/ray/_raylet.so(+0x1812b9a) [0x7fd693212b9a] ray::operator<<()
"""


@pytest.fixture(autouse=True)
def own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting leaves its cluster's token in the environment: no test takes that of another."""
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_what_ray_says_before_it_aborts_is_told_without_where_in_its_source() -> None:
    assert why_it_ended("", ABORTED, -6) == "Failed to connect to socket at address:/tmp/braid-x/ray/sockets/raylet"


def test_an_error_that_python_has_seen_is_told_rather_than_rays_shouting() -> None:
    assert why_it_ended("Version mismatch: 2.60.0 and 2.50.0\n", ABORTED, 1) == "Version mismatch: 2.60.0 and 2.50.0"


@given(said=st.text(st.characters(codec="utf-8", exclude_characters="\n\r")), shouted=st.text(), status=st.integers(-64, 255).filter(bool))
def test_whatever_ray_shouts_there_is_something_to_tell(said: str, shouted: str, status: int) -> None:
    reason = why_it_ended(said, shouted, status)
    assert reason.strip()
    assert "StackTrace" not in reason or "StackTrace" in said


def test_what_listens_and_is_no_cluster_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.ray_backend.session.JOINED_WITHIN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CantJoin, match=r"^no answer within 1 s$"):
        join_tried(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.xdist_group("ray")
def test_a_cluster_whose_files_were_removed_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    """Cleaners of /tmp do that. Ray aborts the process that asks."""
    address = local_cluster.start_local_cluster(tmp_path, 1)
    try:
        state = local_cluster.read_state(local_cluster.directory_of(tmp_path))
        assert state is not None
        (Path(state.ray_dir) / "ray").rename(tmp_path / "removed")
        with pytest.raises(ClusterUnreachable, match=r"can't be joined: [^\n]*`braid cluster down` ends what is left of it, then"):
            connect(address, token_path=local_cluster.token_path(tmp_path))
    finally:
        local_cluster.stop_local_cluster(tmp_path)
