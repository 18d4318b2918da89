"""When an agent ends of its own accord. What else it does shows in test_ray_cluster.py and test_runs.py, on a real cluster."""

from __future__ import annotations

from orchestrator.deadlines import FORSAKEN_AFTER_S
from orchestrator.messages import WorkerReport
from orchestrator.ray_backend.node_agent import is_forsaken

TRAINS, ENDED = WorkerReport(rank=0, pid=1), WorkerReport(rank=1, pid=2, exit_code=0)


def test_an_agent_ends_once_no_controller_speaks_and_no_worker_runs():
    assert is_forsaken((), FORSAKEN_AFTER_S + 1)
    assert is_forsaken((ENDED,), FORSAKEN_AFTER_S + 1)


def test_an_agent_stays_as_long_as_it_trains_or_is_spoken_to():
    assert not is_forsaken((ENDED, TRAINS), FORSAKEN_AFTER_S + 1)
    assert not is_forsaken((ENDED,), FORSAKEN_AFTER_S - 1)
