"""The workers of one attempt, without an agent: real processes, which say little Python. Each test serves their pipes itself."""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.attended import AttendedClock
from orchestrator.identity import RunIdentity
from orchestrator.messages import Failed, Phase, WorkerReport
from orchestrator.node import worker_group
from orchestrator.node.orders import ProcessSpec, WorkerSpec
from orchestrator.node.processes import look_at, members_of_session, send
from orchestrator.node.rotated_log import RotatedLog
from orchestrator.node.standbys import Standbys
from orchestrator.node.worker_group import EXIT_NOT_STARTED, WorkerGroup
from orchestrator.node.worker_process import WorkerProcess
from tests.orchestrator.node.scripted import HEARS, TRAINS, assign
from tests.orchestrator.node.waiting import is_over, is_training, wait_for


class Served:
    """A group, and one who serves it while it waits."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic, stack_dump_grace_s: float = 1.0) -> None:
        self.ended: list[int] = []
        """Ranks, in the order in which they ended."""
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self._clock = AttendedClock(clock, max_gap_s=1.0)
        self.group = WorkerGroup(
            1,
            run=RunIdentity(name=directory.name),
            stack_dump_grace_s=stack_dump_grace_s,
            selector=self._selector,
            clock=self._clock,
            standbys=Standbys(self._selector, self._clock),
            on_exit=self._on_exit,
        )

    def start(self, *codes: str, python: str = sys.executable) -> None:
        """A worker for each piece of code."""
        marks = {"BRAID_RUN": self._directory.name, "BRAID_AGENT_PID": str(os.getpid())}
        self.group.start(
            tuple(
                WorkerSpec(
                    process=ProcessSpec(command=(python, "-c", code), environment=os.environ | marks, directory=self._directory),
                    assign=assign(rank),
                    log_path=self._directory / f"logs/{rank}.log",
                )
                for rank, code in enumerate(codes)
            )
        )

    def serve(self) -> None:
        for key, _ in self._selector.select(0.05):
            key.data()
        self._clock.look()
        self.group.look()

    def when(self, condition: Callable[[WorkerReport], bool], *, count: int = 1) -> tuple[WorkerReport, ...]:
        """The reports once `count` of them meet the condition."""

        def look() -> tuple[WorkerReport, ...] | None:
            self.serve()
            reports = self.group.reports()
            return reports if sum(condition(report) for report in reports) >= count else None

        return wait_for(look, "the reports")

    def end(self, *, wants_evidence: bool = False) -> None:
        def is_gone() -> bool:
            self.group.end(wants_evidence=wants_evidence)
            self.serve()
            return self.group.is_gone

        wait_for(is_gone, "the end of all")

    def log(self, rank: int) -> bytes:
        logfile = self.group.logfile(rank)
        return logfile.tail(1 << 20) if logfile else b""

    def _on_exit(self, rank: int, logfile: RotatedLog) -> None:
        self.ended.append(rank)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.end()


def test_the_last_words_of_a_worker_come_with_its_exit(served: Served):
    served.start(HEARS + "say(Failed(error_type='ValueError', text='no')); print('bye', flush=True); os._exit(3)")

    [report] = served.when(is_over)

    assert (report.rank, report.exit_code, report.killed_by_agent) == (0, 3, False)
    assert report.failed == Failed(error_type="ValueError", text="no")
    assert served.log(0) == b"bye\n"
    served.end()
    assert served.ended == [0]


def test_an_exit_is_known_while_the_kernel_still_tears_the_process_down(served: Served, monkeypatch: pytest.MonkeyPatch):
    """As with the memory of a GPU, which takes seconds: here it is never done with it."""
    served.start(HEARS + "train(); print('bye', flush=True); time.sleep(120)", TRAINS)
    pid = served.when(is_training, count=2)[0].pid
    with monkeypatch.context() as kernel:
        kernel.setattr(WorkerProcess, "has_ended", lambda self: False)
        send(pid, signal.SIGKILL)
        dead, alive = served.when(is_over)
        assert (dead.exit_code, dead.killed_by_agent, alive.exit_code) == (-signal.SIGKILL, False, None)
        assert served.log(0) == b"bye\n"
        assert served.ended == []
        served.group.end(wants_evidence=False)
        assert not served.group.is_gone

    served.end()

    assert sorted(served.ended) == [0, 1]
    assert [report.killed_by_agent for report in served.group.reports()] == [False, True]


def test_a_flood_of_words_before_the_end_is_read_to_its_end(served: Served):
    served.start(HEARS + "[say(Beat(phase=Phase.TRAINING, step=n)) for n in range(5000)]; print('x' * 300_000, flush=True); os._exit(0)")

    [report] = served.when(is_over)

    assert report.step == 4999
    assert len(served.log(0)) == 300_001


def test_who_leaves_somebody_behind_that_never_stops_talking_is_reaped_all_the_same(served: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(WorkerProcess, "read_output", lambda self: b"y\n")

    served.start("pass")

    assert served.when(is_over)[0].exit_code == 0


def test_a_worker_that_somebody_killed_is_not_taken_for_one_that_the_agent_killed(served: Served):
    served.start(TRAINS, TRAINS)
    victim = served.when(is_training, count=2)[0]

    os.kill(victim.pid, signal.SIGKILL)
    served.when(is_over)
    served.end()

    assert [(report.exit_code, report.killed_by_agent) for report in served.group.reports()] == [(-9, False), (-9, True)]


def test_who_had_ended_when_the_agent_began_to_kill_did_so_by_itself(served: Served):
    served.start(HEARS + "train(); signal.pause()")
    pid = served.when(is_training)[0].pid
    os.kill(pid, signal.SIGABRT)
    wait_for(lambda: look_at(pid) is None, "the worker's end")

    served.end()

    assert [(report.exit_code, report.killed_by_agent) for report in served.group.reports()] == [(-6, False)]


def test_how_a_worker_ends_says_nothing_once_the_agent_kills_its_peers(served: Served):
    """Told to write down where it stands, this one ends with a status of its own, as a survivor whose peer is gone does."""
    served.start(HEARS + "signal.signal(signal.SIGUSR1, lambda *_: os.abort()); train(); time.sleep(120)")
    served.when(is_training)

    served.end(wants_evidence=True)

    assert [(report.exit_code, report.killed_by_agent) for report in served.group.reports()] == [(-6, True)]


def test_a_worker_is_not_killed_before_it_had_the_time_to_write_down_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now_s, sent = [0.0], []
    served = Served(tmp_path, clock=lambda: now_s[0], stack_dump_grace_s=5.0)
    served.start(HEARS + "signal.signal(signal.SIGUSR1, signal.SIG_IGN); train(); time.sleep(120)")
    served.when(is_training)

    def note(pid: int, number: signal.Signals) -> None:
        sent.append((now_s[0], number))
        send(pid, number)

    monkeypatch.setattr(worker_group, "send", note)
    while not served.group.is_gone and now_s[0] < 60.0:
        served.group.end(wants_evidence=True)
        now_s[0] += 0.5
        served.serve()

    assert (sent[0], sent[1]) == ((0.0, signal.SIGUSR1), (5.0, signal.SIGKILL))


def test_nothing_is_left_of_a_killed_worker(served: Served):
    served.start(HEARS + "os.fork(); train(); time.sleep(120)")
    pid = served.when(is_training)[0].pid
    wait_for(lambda: len(members_of_session(pid)) == 2, "the worker's child")

    served.end()

    assert members_of_session(pid) == []


def test_the_child_that_a_worker_leaves_behind_is_ended(served: Served):
    served.start("import os, time; os.fork() or time.sleep(120)")

    [report] = served.when(is_over)

    assert report.exit_code == 0
    wait_for(lambda: members_of_session(report.pid) == [], "the end of the child")


def test_a_process_in_a_session_of_its_own_does_not_survive(served: Served):
    served.start(HEARS + "print(subprocess.Popen(['sleep', '120'], start_new_session=True).pid, flush=True); train(); time.sleep(120)")
    served.when(is_training)
    child = int(wait_for(lambda: served.serve() or served.log(0), "the child"))
    assert look_at(child) is not None

    served.end()

    assert look_at(child) is None


def test_a_stopped_worker_is_told_as_such_until_it_goes_on(served: Served):
    served.start(TRAINS)
    pid = served.when(is_training)[0].pid
    os.kill(pid, signal.SIGSTOP)
    served.when(lambda worker: worker.is_stopped)
    os.kill(pid, signal.SIGCONT)
    served.when(lambda worker: not worker.is_stopped)


def test_a_stopped_worker_can_be_killed(served: Served):
    served.start(TRAINS)
    os.kill(served.when(is_training)[0].pid, signal.SIGSTOP)

    served.end()


def test_a_graceful_stop_comes_down_the_pipe_once(served: Served):
    code = """
def look_for_more(*_):
    os.set_blocking(orders.fileno(), False)
    os._exit(5 if orders.read() is None else 6)
signal.signal(signal.SIGUSR2, look_for_more)
train()
assert decode_order(orders.readline()) == Stop()
say(Beat(phase=Phase.SAVING))
time.sleep(120)
"""
    served.start(HEARS + code)
    pid = served.when(is_training)[0].pid

    served.group.stop()
    served.when(lambda report: report.phase is Phase.SAVING)
    served.group.stop()
    os.kill(pid, signal.SIGUSR2)

    assert served.when(is_over)[0].exit_code == 5


def test_a_command_that_does_not_exist_is_a_failed_worker_that_says_so(served: Served):
    served.start("", python="/no/such/python")

    [report] = served.when(is_over)

    assert report.exit_code == EXIT_NOT_STARTED
    assert report.failed is not None
    assert "/no/such/python" in report.failed.text


def test_noise_on_the_report_pipe_is_ignored(served: Served):
    served.start(HEARS + "os.write(int(os.environ['BRAID_REPORT_FD']), b'what?\\n'); train(); time.sleep(120)")

    assert served.when(is_training)[0].phase is Phase.TRAINING


def test_a_worker_begins_with_no_signal_blocked_and_ordinary_priority(served: Served):
    served.start("import os; print(os.getpriority(0, 0), open('/proc/self/oom_score_adj').read().strip(), os.getsid(0) == os.getpid())")

    served.when(is_over)

    assert served.log(0) == b"0 0 True\n"


def test_a_worker_gets_no_pipe_of_its_siblings(served: Served):
    """Else it would not see the end of its agent as long as a sibling lives."""
    code = """
import os
own = {0, 1, 2, int(os.environ["BRAID_ORDER_FD"]), int(os.environ["BRAID_REPORT_FD"])}
listed = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd not in own]
print([fd for fd in listed if os.path.exists(f"/proc/self/fd/{fd}")])
"""
    served.start(TRAINS, code)

    served.when(is_over)

    assert served.log(1) == b"[]\n"
