"""Starting Ceph; that the server serves is shown by tests/s3."""

from pathlib import Path

import pytest

from launch.servers.ceph import CephError, start_ceph, why_not_ceph

pytestmark = pytest.mark.s3


def test_ceph_is_not_started_over_something_else(tmp_path: Path) -> None:
    if why_not_ceph():
        pytest.skip(why_not_ceph())
    (tmp_path / "precious").write_text("x")
    with pytest.raises(CephError, match="is not empty; give a new directory"):
        start_ceph(tmp_path)
