"""`braid cluster` where there is none."""

from tests.launch.command_line import Braid


def test_there_is_no_local_cluster_to_show_before_one_is_started(braid: Braid) -> None:
    assert braid("cluster", "status").status == 1
    assert braid("cluster", "down").status == 0
