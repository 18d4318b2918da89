"""Two real processes that wait for each other for ever."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator.health.stacks import grouped, main_stack, who_is_missing
from orchestrator.node.processes import look_at
from tests.orchestrator.node.waiting import wait_for


def test_who_never_entered_the_collective_is_named_by_what_both_wrote_down(tmp_path: Path):
    logs = [tmp_path / f"rank-{rank}.log" for rank in range(2)]
    command = [sys.executable, "-m", "tests.orchestrator.health.hung_rank"]
    ranks = []
    for rank, log in enumerate(logs):
        with log.open("wb") as out:
            ranks.append(subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=out, stderr=out))
    try:
        wait_for(lambda: all("joined" in log.read_text() for log in logs), "both ranks to meet")
        wait_for(lambda: _waits(ranks[0], logs[0]), "the first rank to enter the collective")
        ranks[1].send_signal(signal.SIGUSR1)
        wait_for(lambda: main_stack(logs[1].read_text()), "the stack of the second")
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    missing = who_is_missing(grouped({rank: main_stack(log.read_text()) for rank, log in enumerate(logs)}))
    assert missing.startswith("waiting: rank 0 in all_reduce; rank 1 never entered it: in wait (")
    assert "called by main (" in missing


def _waits(rank: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Asked again until it has come there: a signal may find it on its way."""
    assert look_at(rank.pid) is not None, log.read_text()
    rank.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    return any(frame.function == "all_reduce" for frame in main_stack(log.read_text()))
