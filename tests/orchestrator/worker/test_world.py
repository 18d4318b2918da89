"""How ranks meet, in real processes."""

import os
import subprocess
import sys
from pathlib import Path

from orchestrator.config import RecoveryConfig
from orchestrator.worker.world import patience


def test_ranks_meet_again_at_the_store_of_torchruns_agent_after_a_restart(tmp_path: Path):
    """Which remembers what the incarnation before wrote there. Two threads of a rank wait independently."""
    log = tmp_path / "log"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.1"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    with log.open("wb") as output:
        done = subprocess.run(
            [*torchrun, *rendezvous, "-m", "tests.orchestrator.worker.world_probe"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )

    assert done.returncode == 0, log.read_text()
    assert "met ['rank 0 of node 0', 'rank 1 of node 0'], 1 group of all ranks" in log.read_text()


def test_no_rank_gives_up_on_another_that_may_still_write_its_checkpoint():
    """Nor on one that may still begin, or still be at its step."""
    for name in ("progress_timeout_s", "start_timeout_s", "stop_timeout_s"):
        assert patience(RecoveryConfig(**{name: 7200.0})).total_seconds() == 7200
