"""Processes that stand by, in an agent: real ones, which say little Python."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.attended import AttendedClock
from orchestrator.messages import AgentReport, Mode
from orchestrator.node import priority
from orchestrator.node.agent import Agent
from orchestrator.node.orders import AgentOrder, ProcessSpec
from orchestrator.node.own_python import own_python
from orchestrator.node.processes import is_stopped, look_at, pids_with_environment, send
from orchestrator.node.standbys import DEATHS_COUNT_FOR_S, MAX_DEATHS, Standbys
from orchestrator.node.worker_process import WorkerProcess
from tests.orchestrator.node.scripted import HEARS, TRAINS, command
from tests.orchestrator.node.waiting import report_when, trains, wait_for

READY = """
import os
from orchestrator.messages import Ready, encode
os.write(int(os.environ["BRAID_REPORT_FD"]), encode(Ready()))
"""
"""What a process says that stands by, before it hears who it is."""
TOLD = """
from orchestrator.messages import Beat
os.write(int(os.environ["BRAID_REPORT_FD"]), encode(Beat(told_to_leave=True)))
"""


@pytest.fixture
def those_there(tmp_path: Path) -> Callable[..., list[int]]:
    """Processes of the run, but for those that are named."""
    return lambda *known: [pid for pid in pids_with_environment("BRAID_RUN", tmp_path.name) if pid not in known]


def kill(attempt: int) -> AgentOrder:
    return AgentOrder(attempt=attempt, mode=Mode.KILL)


def stands_by(report: AgentReport) -> bool:
    return report.standbys == 1


def pid_of(report: AgentReport) -> int:
    return report.workers[0].pid


def wait_until_ready(agent: Agent) -> None:
    wait_for(lambda: stands_by(agent.report()[1]), "one that stands by")


def test_who_stands_by_is_the_next_attempts_worker_and_outlives_the_one_before(agent_of, run, those_there):
    agent = agent_of(READY + TRAINS, num_standbys=1)
    wait_until_ready(agent)
    [first] = those_there()
    agent.obey(run(1))

    assert pid_of(report_when(agent, trains(1))) == first
    wait_until_ready(agent)
    [second] = those_there(first)
    agent.obey(kill(1))
    report_when(agent, lambda report: report.is_empty)
    assert those_there() == [second]
    agent.obey(run(2))

    assert pid_of(report_when(agent, trains(2))) == second
    wait_until_ready(agent)
    agent.close()
    assert those_there() == []


def test_an_attempt_waits_for_nobody_who_is_not_ready(agent_of, run, those_there, tmp_path: Path):
    imports = f"import time\nwhile not __import__('os').path.exists({str(tmp_path / 'imported')!r}): time.sleep(0.01)\n"
    agent = agent_of(imports + READY + TRAINS, num_standbys=1)
    [still_imports] = wait_for(those_there, "its start")

    agent.obey(run(1))

    report = report_when(agent, lambda report: report.workers != ())
    assert (pid_of(report), report.standbys) == (still_imports, 0)
    (tmp_path / "imported").touch()
    report_when(agent, trains(1))


def test_none_starts_while_workers_do(agent_of, run, those_there):
    agent = agent_of(HEARS + "time.sleep(120)", num_standbys=1)
    agent.obey(run(1))
    worker = pid_of(report_when(agent, lambda report: report.workers != ()))

    agent.obey(run(1))
    wait_for(lambda: agent.report()[1].workers[0].age_s > 0.2, "looks of the agent")

    assert those_there() == [worker]


def test_what_one_printed_before_it_was_ordered_is_in_the_log_of_its_worker(agent_of, run):
    agent = agent_of("print('imports', flush=True)\n" + READY + TRAINS, num_standbys=1)
    wait_until_ready(agent)

    agent.obey(run(1))
    report_when(agent, trains(1))

    wait_for(lambda: agent.read_log(0, 0, 1 << 10)[0] == b"imports\n", "the log")


def test_who_dies_is_replaced(agent_of, those_there):
    agent = agent_of(READY + TRAINS, num_standbys=1)
    wait_until_ready(agent)
    [first] = those_there()

    send(first, signal.SIGKILL)

    wait_for(lambda: those_there(first), "another one")


def test_where_one_after_the_other_dies_the_next_attempt_starts_its_own(agent_of, run, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    agent = agent_of(
        born(tmp_path) + f"if not os.path.exists({str(tmp_path / 'memory')!r}): raise SystemExit('no memory')\n" + TRAINS, num_standbys=1
    )
    wait_for(lambda: len(deaths(caplog)) == MAX_DEATHS, "their deaths")

    (tmp_path / "memory").touch()
    agent.obey(run(1))

    worker = pid_of(report_when(agent, trains(1)))
    assert all_born(tmp_path)[MAX_DEATHS] == worker
    assert deaths(caplog) == [
        *["who stood by for local rank 0 has ended: no memory; another one follows"] * (MAX_DEATHS - 1),
        "who stood by for local rank 0 has ended: no memory; none follows for 3600 s; an attempt starts its own",
    ]


def born(tmp_path: Path) -> str:
    return f"import os\nwith open({str(tmp_path / 'born')!r}, 'a') as born: born.write(f'{{os.getpid()}}\\n')\n"


def all_born(tmp_path: Path) -> list[int]:
    """Processes, in the order in which they began."""
    return [int(line) for line in (tmp_path / "born").read_text().split()] if (tmp_path / "born").exists() else []


def deaths(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "stood by" in record.getMessage()]


def test_who_is_stopped_is_left_out(agent_of, run, those_there):
    agent = agent_of(READY + TRAINS, num_standbys=1)
    wait_until_ready(agent)
    [stopped] = those_there()
    os.kill(stopped, signal.SIGSTOP)
    wait_for(lambda: is_stopped(stopped), "its stop")

    agent.obey(run(1))

    assert pid_of(report_when(agent, trains(1))) != stopped
    assert look_at(stopped) is None


def test_who_has_imported_code_that_was_changed_since_is_left_out(agent_of, run, those_there, monkeypatch: pytest.MonkeyPatch):
    agent = agent_of(READY + TRAINS, num_standbys=1)
    wait_until_ready(agent)
    [outdated] = those_there()
    monkeypatch.setattr("orchestrator.node.agent.code_stamp", lambda: "edited")

    agent.obey(run(1))

    assert pid_of(report_when(agent, trains(1))) != outdated
    assert look_at(outdated) is None


def test_what_processes_inherit_is_made_once_however_often_the_agent_looks(agent_of, run, monkeypatch: pytest.MonkeyPatch):
    made: list[Mapping[str, str]] = []
    monkeypatch.setattr("orchestrator.node.agent.own_python", lambda inherited: made.append(inherited) or own_python(inherited))
    agent = agent_of(READY + TRAINS, num_standbys=1)
    wait_until_ready(agent)

    agent.obey(run(1))
    report_when(agent, trains(1))

    assert len(made) == 1


def test_who_was_told_to_leave_is_replaced_since_the_run_would_leave_the_node_for_it(agent_of, tmp_path: Path):
    agent_of(READY + born(tmp_path) + TOLD + TRAINS, num_standbys=1)

    first, *_ = wait_for(lambda: len(found := all_born(tmp_path)) > 1 and found, "another one")

    assert look_at(first) is None


class Served:
    """One that stands by without an agent, and who serves it; the time is what a test says."""

    def __init__(self, directory: Path, code: str) -> None:
        self.now_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._clock = AttendedClock(lambda: self.now_s, max_gap_s=float("inf"))
        self.standbys = Standbys(self._selector, self._clock)
        self.spec = ProcessSpec(command=command(code), environment=dict(os.environ), directory=directory)

    def prepare(self) -> Collection[int]:
        self._clock.look()
        self.standbys.prepare(0, self.spec)
        return self.standbys.sessions

    def serve_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            for key, _ in self._selector.select(60):
                key.data()

    def close(self) -> None:
        self.standbys.dismiss_all()
        self.serve_until(lambda: self.standbys.is_gone)
        self._selector.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], Served]]:
    made: list[Served] = []
    yield lambda code: made.append(Served(tmp_path, code)) or made[-1]
    for one in made:
        one.close()


def test_who_was_told_to_leave_is_no_worker_even_while_it_is_ending(served, caplog: pytest.LogCaptureFixture):
    one = served(READY + TOLD + "import time; time.sleep(120)")
    [pid] = one.prepare()

    one.serve_until(lambda: deaths(caplog) != [])

    assert pid not in one.standbys.sessions
    assert deaths(caplog) == ["who stood by for local rank 0 has ended: told to leave; another one follows"]


def test_who_is_ending_is_no_worker(served, monkeypatch: pytest.MonkeyPatch):
    one = served("import time; time.sleep(120)")
    [ending] = one.prepare()
    monkeypatch.setattr(WorkerProcess, "ending_status", lambda process: -signal.SIGKILL if process.pid == ending else None)

    worker = one.standbys.start(0, one.spec)

    assert worker.pid != ending
    send(worker.pid, signal.SIGKILL)
    worker.reap()


def test_where_they_died_one_stands_by_again_after_an_hour_though_no_attempt_began(served):
    one = served("")
    for _ in range(MAX_DEATHS):
        assert one.prepare()
        one.serve_until(lambda: not one.standbys.sessions)
    assert not one.prepare()

    one.now_s += DEATHS_COUNT_FOR_S

    assert one.prepare()


@pytest.mark.skipif(not priority._can_be_undone(), reason="needs CAP_SYS_NICE")
def test_one_takes_only_time_that_nobody_wants_until_it_is_a_worker(agent_of, run, those_there):
    agent = agent_of(
        "import threading, time; threading.Thread(target=time.sleep, args=(120,), daemon=True).start()\n" + READY + TRAINS, num_standbys=1
    )
    wait_until_ready(agent)
    [pid] = those_there()
    assert policies(pid) == {os.SCHED_IDLE}

    agent.obey(run(1))
    report_when(agent, trains(1))

    assert policies(pid) == {os.SCHED_OTHER}


@pytest.mark.skipif(not priority._can_be_undone(), reason="needs CAP_SYS_NICE")
def test_a_thread_that_ends_meanwhile_leaves_no_other_one_idle(monkeypatch: pytest.MonkeyPatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    with subprocess.Popen(["sleep", "120"]) as process:
        priority.run_when_idle(process.pid)
        monkeypatch.setattr(priority, "_threads", lambda pid: [ended.pid, pid])

        priority.run_as_usual(process.pid)

        found = policies(process.pid)
        process.kill()
    assert found == {os.SCHED_OTHER}


def policies(pid: int) -> set[int]:
    """Of its threads."""
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")}
