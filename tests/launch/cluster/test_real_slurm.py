"""launch/cluster/slurm.sbatch on a real Slurm cluster of two nodes: a run outlives its jobs, however these end."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.store.local import LocalStore
from orchestrator.control.history import read_state
from orchestrator.control.state import RunState
from orchestrator.records.keys import store_of_run
from tests.launch.cluster.slurm_world import Slurm, free_port, missing, slurm_cluster
from tests.orchestrator.node.waiting import wait_for

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]

SCRIPT = Path(__file__).parents[3] / "launch/cluster/slurm.sbatch"
SMALL = (
    "data.dataset=small", "data.seq_len=32", "train.batch_rows=2", "train.micro_rows=1", "train.num_steps=1000000",
    "model.vocab_size=512", "model.d_model=32", "model.num_heads=2", "model.head_dim=16", "model.gdn_key_dim=8", "model.gdn_value_dim=16",
    "model.ffn_width=64", "checkpoint.every_steps=1000000",
)  # fmt: skip
PATIENCE_S = 240.0


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    why = missing()
    if why:
        pytest.skip(f"NOT TESTED ON A REAL SLURM: {why}")
    with slurm_cluster() as slurm:
        slurm.environment |= {
            "VENV": sys.prefix,
            "PORT": str(free_port()),
            "RAY_TMPDIR": str(slurm.directory / "ray"),
            "BRAID_HOME": str(tmp_path / "home"),
            "BRAID_STORAGE_ROOT": str(tmp_path / "store"),
        }
        yield slurm


def test_a_run_outlives_a_job_whose_time_is_over_one_that_is_cancelled_and_one_whose_node_dies(tmp_path: Path, slurm: Slurm) -> None:
    """No checkpoint is due for a long time: what each job trained is there only because it saved when it was told."""
    (tmp_path / "corpus.txt").write_text("a fox jumps over a dog, a dog jumps over a fox\n" * 400)
    braid = (sys.executable, "-m", "launch.cli")
    slurm.ask(*braid, "data", "build", "small", str(tmp_path / "corpus.txt"), "--vocab-size", "300")
    run_store = store_of_run(LocalStore(tmp_path / "store"), "first")

    def submit() -> str:
        limits = ("--parsable", "--nodes=2", "--gpus-per-node=0", "--time=60", "--requeue")
        return slurm.ask("sbatch", *limits, str(SCRIPT), "first", "tiny", *SMALL)

    def wait_until_it_trains(*, after: int) -> RunState:
        """In a later attempt: one may have been begun in the last moments of a job."""

        def look() -> RunState | None:
            state = read_state(run_store)
            trains = state.label == "running" and state.resumed_from is not None and not state.reason
            return state if trains and state.attempt > after else None

        return wait_for(look, f"an attempt after {after}", timeout_s=PATIENCE_S)

    def wait_for_the_end_of(job: str, state: str) -> None:
        wait_for(lambda: slurm.state_of(job) == state, f"job {job} to be {state}", timeout_s=PATIENCE_S)

    # Slurm's warning, shortly before the job's time is over
    first = submit()
    wait_until_it_trains(after=0)
    slurm.ask("scancel", "--batch", "--signal=TERM", first)
    wait_for_the_end_of(first, "COMPLETED")
    stopped = read_state(run_store)
    assert (stopped.label, stopped.committed_step > 0) == ("stopped", True)

    # the same line goes on; a job that is cancelled saves too
    second = submit()
    assert wait_until_it_trains(after=stopped.attempt).resumed_from == stopped.committed_step
    slurm.ask("scancel", second)
    wait_for_the_end_of(second, "CANCELLED")
    wait_for(lambda: not slurm.ask("squeue", "-h"), "the end of its processes", timeout_s=PATIENCE_S)
    steps = [checkpoint["step"] for checkpoint in json.loads(slurm.ask(*braid, "checkpoints", "first", "--json"))]
    assert steps[0] > steps[1] == stopped.committed_step

    # a job whose node dies is queued again by Slurm, and goes on from there once there are nodes enough
    before = read_state(run_store).attempt
    third = submit()
    resumed = wait_until_it_trains(after=before)
    assert resumed.resumed_from == steps[0]
    slurm.kill_node("braid-two")
    wait_for(lambda: slurm.state_of(third) != "RUNNING", "Slurm to notice", timeout_s=PATIENCE_S)
    slurm.start_node("braid-two")
    assert wait_until_it_trains(after=resumed.attempt).resumed_from == steps[0]
    slurm.ask("scancel", "--batch", "--signal=TERM", third)
    wait_for_the_end_of(third, "COMPLETED")
    assert "nothing skipped or repeated" in slurm.ask(*braid, "verify", "first")
