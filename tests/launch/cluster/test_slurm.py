"""launch/cluster/slurm.sbatch, run by bash as Slurm runs it. Stand-ins for Slurm, Ray and braid write down how they were called."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.orchestrator.node.waiting import wait_for

SCRIPT = Path(__file__).parents[3] / "launch/cluster/slurm.sbatch"

STAND_INS = {
    "scontrol": "printf 'gpu01\\ngpu02\\n'",
    "ray": """
[ "$1" = health-check ] && exit 0
echo "ray $RAY_memory_monitor_refresh_ms $*" >> "$CALLS"
exec sleep 1000""",
    # What srun runs, it runs as on the node that it was sent to.
    "srun": """
while [ "$1" != bash ]; do [ "$1" = -w ] && shift; shift; done
SLURMD_NODENAME=gpu02; case "$*" in *--head*) SLURMD_NODENAME=gpu01; echo $$ > "$CALLS.head" ;; esac
export SLURMD_NODENAME; exec "$@" """,
    "sleep": '[ "$1" = 1000 ] && exec /bin/sleep 1000; exit 0',
    # Ends as the next line says of the file that is named like what is asked; the last line stands for all that follow.
    "braid": """
[ "$1 $2" = "cluster node" ] && shift 2 && exec "$@"
echo "braid $*" >> "$CALLS"
case "$*" in *--ended*) asked=ended ;; *--watch*) asked=watch ;; *) asked=$1 ;; esac
answers="$ANSWERS/$asked"
[ -f "$answers" ] || exit 0
answer=$(/usr/bin/head -n 1 "$answers")
[ "$(/usr/bin/wc -l < "$answers")" -gt 1 ] && /usr/bin/sed -i 1d "$answers"
[ "$answer" = for-ever ] && exec /bin/sleep 1000
[ "$answer" = head-dies ] && kill "$(/bin/cat "$CALLS.head")" && exit 4
exit "$answer" """,
}


class Job:
    """A job of two nodes. `answers` says for each command of braid with which exit statuses it ends, one after the other."""

    def __init__(self, directory: Path, **answers: str) -> None:
        self._calls = directory / "calls"
        self._calls.touch()
        (directory / "answers").mkdir()
        (directory / "bin").mkdir()
        for name, lines in answers.items():
            (directory / "answers" / name).write_text("".join(f"{line}\n" for line in lines.split()))
        for name, body in STAND_INS.items():
            (directory / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
            (directory / "bin" / name).chmod(0o755)
        (directory / "bin" / "activate").touch()
        environment = {
            "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
            "VENV": str(directory),
            "CALLS": str(self._calls),
            "ANSWERS": str(directory / "answers"),
            "SLURM_JOB_NODELIST": "gpu[01-02]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_ID": "17",
            "BRAID_STORAGE_ROOT": "s3://bucket/prefix",
        }
        command = ["bash", str(SCRIPT), "first", "tiny", "train.num_steps=400"]
        self.process = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()

    def of_braid(self) -> list[str]:
        return [call.removeprefix("braid ") for call in self.calls if call.startswith("braid ")]

    def status(self) -> int:
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=60)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def start(**answers: str) -> Job:
        jobs.append(Job(tmp_path, **answers))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


def test_a_new_run_is_submitted_and_the_job_ends_with_it(run: Callable[..., Job]) -> None:
    job = run(status="2 0", ended="1 0")

    assert job.status() == 0
    assert job.of_braid() == [
        "status first",
        "submit tiny name=first storage.root=s3://bucket/prefix train.num_steps=400",
        "status first --ended",
        "status first --watch",
        "status first --ended",
        "status first",
    ]


def test_a_run_that_is_there_already_is_resumed(run: Callable[..., Job]) -> None:
    job = run(status="0", ended="0")

    assert job.status() == 0
    assert job.of_braid()[1] == "resume first"


def test_the_job_is_not_over_because_the_one_who_watches_gives_up(run: Callable[..., Job]) -> None:
    """It got no answer, the store was away, it was killed: the run may go on, and the cluster is the run's."""
    job = run(status="2 0", watch="4 2 137 0", ended="1 1 2 1 1 0")

    assert job.status() == 0
    assert job.of_braid().count("status first --watch") == 5


def test_a_run_that_fails_fails_the_job(run: Callable[..., Job]) -> None:
    assert run(status="2 1", watch="1", ended="1 0").status() == 1


def test_a_submission_that_is_refused_ends_the_job_at_once(run: Callable[..., Job]) -> None:
    job = run(status="2", submit="2")

    assert job.status() == 2
    assert len(job.of_braid()) == 2


def test_before_the_time_is_over_the_run_is_stopped_until_it_has_stopped(run: Callable[..., Job]) -> None:
    job = run(status="2 0", watch="for-ever", ended="1 1 1 0", stop="2 0")
    wait_for(lambda: "status first --watch" in job.of_braid(), "the one who watches")
    job.process.send_signal(signal.SIGTERM)

    assert job.status() == 0
    assert job.of_braid()[-5:] == ["stop first", "status first --ended", "stop first", "status first --ended", "status first"]


def test_a_cluster_whose_head_is_gone_ends_the_job(run: Callable[..., Job]) -> None:
    job = run(status="2 0", watch="head-dies for-ever", ended="1")

    assert job.status() == 1


def test_every_node_is_started_under_its_machines_name_and_without_rays_memory_monitor(run: Callable[..., Job]) -> None:
    job = run(status="2 0", watch="for-ever", ended="1")
    wait_for(lambda: len([call for call in job.calls if call.startswith("ray ")]) == 2, "both nodes")
    head, other = sorted((call for call in job.calls if call.startswith("ray ")), key=lambda call: "--head" not in call)

    assert head.startswith("ray 0 start --labels=braid-machine=gpu01 --block --head --port=6379 --node-ip-address=gpu01 ")
    assert '--system-config={"health_check_period_ms": 500' in head
    assert other == "ray 0 start --labels=braid-machine=gpu02 --block --address=gpu01:6379"
