"""`braid logs`: what a worker printed, from the store or from this machine."""

from pathlib import Path

import pytest

from launch.runs.record import read_run, run_store_of
from tests.launch.command_line import Braid
from tests.launch.stored_runs import FINISHED, store_at, stored_run


def test_logs_come_from_the_store_once_the_worker_has_ended(braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    run_store = run_store_of(store_at(braid.root), "first")
    run_store.put("logs/a0001/rank-00001.log", b"killed soon\n")
    run_store.put("logs/a0002/rank-00000.log", b"finished at step 40\n")
    assert braid("logs", "first").out == "finished at step 40\n"
    assert braid("logs", "first", "--rank", "1", "--attempt", "1").out == "killed soon\n"


def test_logs_come_from_this_machine_where_the_store_has_none(braid: Braid, tmp_path: Path) -> None:
    config = stored_run(braid.root, FINISHED, "train.num_steps=40")
    local = tmp_path / f"home/runs/{read_run(config.storage, 'first').identity}/logs/a0002/rank-00000.log"
    local.parent.mkdir(parents=True)
    local.write_text("last words\n")
    assert braid("logs", "first").out == "last words\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rank", "2"], "braid: --rank 2: run first has 2 workers; use 0 … 1"),
        (["--attempt", "3"], "braid: --attempt 3: run first has had 2; use a number up to that, or 0 for the newest"),
        (["--rank", "1"], "braid: log of rank 1 in attempt 2: neither at"),
    ],
)
def test_a_log_that_is_not_there_is_one_line(options: list[str], line: str, braid: Braid) -> None:
    stored_run(braid.root, FINISHED, "train.num_steps=40")
    done = braid("logs", "first", *options)
    assert done.status == 2
    assert done.err.startswith(line)
