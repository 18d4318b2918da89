"""The workers of one node, without Ray: real processes, which say little Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.messages import Failed, Phase, WorkerReport
from orchestrator.node.orders import WorkerSpec
from orchestrator.node.processes import look_at, members_of_session
from orchestrator.node.worker_group import EXIT_NOT_STARTED, WorkerGroup, start_worker_group
from tests.orchestrator.node.waiting import is_over, is_training, wait_for

SPEAKS = "import os, time; from orchestrator.messages import *; say = lambda m: os.write(int(os.environ['BRAID_REPORT_FD']), encode(m));"
TRAINS = SPEAKS + "say(Beat(phase=Phase.TRAINING, step=3)); time.sleep(60)"


@pytest.fixture
def ended() -> list[int]:
    """Ranks, in the order in which they ended."""
    return []


@pytest.fixture
def group(ended: list[int]) -> Iterator[WorkerGroup]:
    group = start_worker_group(on_exit=ended.append)
    yield group
    group.close()


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., WorkerSpec]:
    def spec(rank: int, code: str, *, python: str = sys.executable) -> WorkerSpec:
        return WorkerSpec(rank=rank, command=(python, "-c", code), environment=dict(os.environ), log_path=tmp_path / f"logs/{rank}.log")

    return spec


def reports_when(group: WorkerGroup, condition: Callable[[WorkerReport], bool], *, count: int = 1) -> tuple[WorkerReport, ...]:
    """The reports once `count` of them meet the condition, by waiting for news only."""

    def look() -> tuple[WorkerReport, ...] | None:
        version, reports = group.reports()
        if sum(condition(report) for report in reports) >= count:
            return reports
        group.wait_for_news(version, 5.0)
        return None

    return wait_for(look, "the reports")


def test_the_last_words_of_a_worker_come_with_its_exit(group: WorkerGroup, spec, ended: list[int]):
    group.spawn((spec(7, SPEAKS + "say(Failed(error_type='ValueError', text='no')); print('bye', flush=True); os._exit(3)"),))

    [report] = reports_when(group, is_over)

    assert (report.rank, report.exit_code, report.killed_by_agent) == (7, 3, False)
    assert report.failed == Failed(error_type="ValueError", text="no")
    assert group.read_log(7, 0, 100) == (b"bye\n", 4)
    assert ended == [7]


def test_a_flood_of_words_before_the_end_is_read_to_its_end(group: WorkerGroup, spec):
    code = "[say(Beat(phase=Phase.TRAINING, step=n)) for n in range(5000)]; print('x' * 300_000, flush=True); os._exit(0)"
    group.spawn((spec(0, SPEAKS + code),))

    [report] = reports_when(group, is_over)

    assert report.step == 4999
    assert len(group.log_tail(0, 1 << 20)) == 300_001


def test_a_worker_that_somebody_killed_is_not_taken_for_one_that_the_agent_killed(group: WorkerGroup, spec):
    group.spawn((spec(0, TRAINS), spec(1, TRAINS)))
    victim = reports_when(group, is_training, count=2)[0]

    os.kill(victim.pid, signal.SIGKILL)
    reports_when(group, is_over)
    assert group.kill(10.0)

    assert [(report.exit_code, report.killed_by_agent) for report in group.reports()[1]] == [(-9, False), (-9, True)]


def test_nothing_is_left_of_a_killed_worker_and_nothing_starts_afterwards(group: WorkerGroup, spec):
    group.spawn((spec(0, "import os; os.fork(); " + TRAINS),))
    pid = reports_when(group, is_training)[0].pid
    wait_for(lambda: len(members_of_session(pid)) == 2, "the worker's child")

    assert group.kill(10.0)
    group.spawn((spec(1, TRAINS),))

    assert members_of_session(pid) == []
    assert [report.rank for report in group.reports()[1]] == [0]


def test_the_child_that_a_worker_leaves_behind_is_ended(group: WorkerGroup, spec):
    group.spawn((spec(0, "import os, time; os.fork() or time.sleep(60)"),))

    [report] = reports_when(group, is_over)

    assert report.exit_code == 0
    wait_for(lambda: members_of_session(report.pid) == [], "the end of the child")


def test_a_stopped_worker_can_be_killed(group: WorkerGroup, spec):
    group.spawn((spec(0, TRAINS),))
    os.kill(reports_when(group, is_training)[0].pid, signal.SIGSTOP)

    assert group.kill(10.0)


def test_a_graceful_stop_is_sigterm(group: WorkerGroup, spec):
    code = "import signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(5));"
    group.spawn((spec(0, SPEAKS + code + "say(Beat(phase=Phase.TRAINING, step=0)); time.sleep(60)"),))
    reports_when(group, is_training)

    group.save_and_stop()

    assert reports_when(group, is_over)[0].exit_code == 5


def test_a_command_that_does_not_exist_is_a_failed_worker_that_says_so(group: WorkerGroup, spec):
    group.spawn((spec(0, "", python="/no/such/python"),))

    [report] = reports_when(group, is_over)

    assert report.exit_code == EXIT_NOT_STARTED
    assert report.failed is not None
    assert "/no/such/python" in report.failed.text


def test_spawning_a_rank_twice_starts_it_once(group: WorkerGroup, spec):
    group.spawn((spec(0, TRAINS),))
    group.spawn((spec(0, TRAINS),))

    assert len(reports_when(group, is_training)) == 1


def test_noise_on_the_report_pipe_is_ignored(group: WorkerGroup, spec):
    group.spawn((spec(0, SPEAKS + "os.write(int(os.environ['BRAID_REPORT_FD']), b'what?\\n'); " + TRAINS),))

    assert reports_when(group, is_training)[0].phase is Phase.TRAINING


def test_a_worker_begins_with_no_signal_blocked_and_ordinary_priority(group: WorkerGroup, spec):
    group.spawn(
        (spec(0, "import os; print(os.getpriority(0, 0), open('/proc/self/oom_score_adj').read().strip(), os.getsid(0) == os.getpid())"),)
    )

    reports_when(group, is_over)

    assert group.read_log(0, 0, 100)[0] == b"0 0 True\n"


def test_workers_die_with_their_agent(tmp_path: Path):
    """The agent is a process of its own here; its worker asks the kernel to be killed with it, as the real one does."""
    dies_with_parent = "import ctypes, time; ctypes.CDLL(None).prctl(1, 9); print('here', flush=True); time.sleep(60)"
    agent = (
        "import os, sys, time; from pathlib import Path; from orchestrator.node import orders, worker_group;"
        "group = worker_group.start_worker_group(on_exit=print); command = (sys.executable, '-c', sys.argv[1]);"
        "spec = orders.WorkerSpec(rank=0, command=command, environment=dict(os.environ), log_path=Path(sys.argv[2]));"
        "group.spawn((spec,)); group.wait_for_news(0, 10); print(group.reports()[1][0].pid, flush=True); time.sleep(60)"
    )
    log_path = tmp_path / "0.log"
    with subprocess.Popen([sys.executable, "-c", agent, dies_with_parent, str(log_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        wait_for(lambda: log_path.exists() and log_path.read_text() == "here\n", "the worker")
        time.sleep(0.2)
        assert look_at(worker) is not None, "it must outlive the moment of its start"

        process.kill()

    wait_for(lambda: look_at(worker) is None, "the worker's end", timeout_s=10)
