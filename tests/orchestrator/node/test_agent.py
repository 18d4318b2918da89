"""One node's agent, attempt after attempt: real processes, which say little Python."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from orchestrator.config import RecoveryConfig
from orchestrator.identity import RunIdentity
from orchestrator.messages import AgentReport, Mode, Outcome
from orchestrator.node import worker_group
from orchestrator.node.agent import Agent, AgentIdentity, Holding
from orchestrator.node.log_uploader import LogUploader
from orchestrator.node.orders import AgentOrder
from orchestrator.node.processes import look_at, pids_with_environment, send
from orchestrator.records.keys import log_key
from tests.orchestrator.node.scripted import HEARS, MEET, OBEYS, TRAINS
from tests.orchestrator.node.waiting import is_over, report_when, trains, wait_for


def kill(attempt: int, *, wants_evidence: bool = False) -> AgentOrder:
    return AgentOrder(attempt=attempt, mode=Mode.KILL, wants_evidence=wants_evidence)


def save(attempt: int) -> AgentOrder:
    return AgentOrder(attempt=attempt, mode=Mode.SAVE)


def is_empty(report: AgentReport) -> bool:
    return report.is_empty


def pid_of(report: AgentReport) -> int:
    return report.workers[0].pid


class Looks:
    """A clock that knows how often an agent's thread has looked at it."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> float:
        self._count += 1
        return time.monotonic()

    def pass_by(self) -> None:
        """Returns when the agent has seen to every order so far. Nobody else may ask it for a report meanwhile."""
        before = self._count
        wait_for(lambda: self._count >= before + 2, "the agent's looks")


def log_when(agent: Agent, rank: int, condition: Callable[[bytes], object]) -> bytes:
    def look() -> bytes | None:
        text = agent.read_log(rank, 0, 1 << 20)[0]
        return text if condition(text) else None

    return wait_for(look, "the log")


# --- orders ---------------------------------------------------------------------------------------------------------------


def test_an_agent_without_orders_is_empty_and_says_where_workers_could_meet(agent_of):
    report = report_when(agent_of(TRAINS), lambda report: report.is_empty and report.offer is not None)

    assert (report.node, report.attempt, report.workers, report.gpus) == ("a", 0, (), ("GPU-1",))


def test_an_attempt_that_is_ordered_twice_starts_once(agent_of, run, tmp_path: Path):
    agent = agent_of(TRAINS)

    agent.obey(run(1, num_workers=2))
    agent.obey(run(1, num_workers=2))
    report = report_when(agent, trains(1, num_workers=2))
    agent.obey(run(1, num_workers=2))

    assert agent.report()[1].workers[0].pid == pid_of(report)
    assert sorted(pids_with_environment("BRAID_RUN", tmp_path.name)) == sorted(worker.pid for worker in report.workers)
    assert (report.rendezvous, report.is_empty) == (MEET, False)


def test_a_new_attempt_starts_when_nothing_is_left_of_the_old_one(agent_of, run, monkeypatch: pytest.MonkeyPatch):
    """SIGKILL takes a while here, as it does for a process with much memory, or one that is stuck in the kernel."""
    agent = agent_of(TRAINS, kill_timeout_s=0.1)
    agent.obey(run(1))
    old = pid_of(report_when(agent, trains(1)))
    monkeypatch.setattr(worker_group, "send", lambda pid, number: None)

    agent.obey(run(2))
    waits = report_when(agent, lambda report: report.stuck != ())

    assert (waits.attempt, waits.workers, waits.stuck, waits.is_empty) == (2, (), (old,), False)

    monkeypatch.setattr(worker_group, "send", send)
    report_when(agent, trains(2))

    assert look_at(old) is None
    assert agent.report()[1].stuck == ()


def test_what_a_worker_left_in_its_memory_is_there_for_the_next_of_its_place_and_ends_with_the_agent(agent_of, run):
    keeps = """
kept = int(os.environ["BRAID_MEMORY_FDS"].split(",")[0])
print("found", os.pread(kept, 100, 0).decode(), flush=True)
os.pwrite(kept, f"rank {assign.rank} of attempt {assign.attempt}".encode(), 0)
train()
time.sleep(120)
"""
    agent = agent_of(HEARS + keeps)
    agent.obey(run(1, num_workers=2))
    send(report_when(agent, trains(1, num_workers=2)).workers[1].pid, signal.SIGKILL)
    agent.obey(run(2, num_workers=2))
    report_when(agent, trains(2, num_workers=2))

    assert [log_when(agent, rank, bytes) for rank in (0, 1)] == [b"found rank 0 of attempt 1\n", b"found rank 1 of attempt 1\n"]
    assert len(memory_of_this_process()) == 4
    agent.close()
    assert memory_of_this_process() == []


def memory_of_this_process() -> list[str]:
    names = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
    return [name for name in names if "braid-snapshot" in name]


def test_an_order_of_an_older_attempt_changes_nothing(agent_of, run):
    looks = Looks()
    agent = agent_of(TRAINS, clock=looks)
    agent.obey(run(2))
    before = report_when(agent, trains(2))

    for late in (kill(1), run(1)):
        agent.obey(late)
        looks.pass_by()

    after = agent.report()[1]
    assert (after.attempt, pid_of(after), after.workers[0].exit_code) == (2, pid_of(before), None)


def test_an_attempt_that_was_to_be_killed_is_never_started(agent_of, run, tmp_path: Path):
    looks = Looks()
    agent = agent_of(TRAINS, clock=looks)

    agent.obey(kill(2))
    agent.obey(run(2))
    looks.pass_by()

    assert (agent.report()[1].workers, agent.report()[1].is_empty) == ((), True)
    agent.obey(run(3))
    report_when(agent, trains(3))
    assert not (tmp_path / "home/runs" / tmp_path.name / log_key(2, 0)).parent.exists()


def test_workers_that_obey_end_by_themselves_and_the_node_is_empty(agent_of, run):
    agent = agent_of(OBEYS)
    agent.obey(run(1, num_workers=2))
    report_when(agent, trains(1, num_workers=2))

    agent.obey(save(1))

    report = report_when(agent, is_empty)
    assert [(worker.ended and worker.ended.outcome, worker.exit_code, worker.killed_by_agent) for worker in report.workers] == [
        (Outcome.STOPPED, 0, False)
    ] * 2


def test_a_stop_that_comes_before_the_workers_reaches_them(agent_of, run):
    agent = agent_of(OBEYS)

    agent.obey(save(1))
    agent.obey(run(1))

    assert report_when(agent, lambda report: any(map(is_over, report.workers))).workers[0].ended is not None


def test_a_worker_that_ignores_the_stop_is_killed(agent_of, run):
    agent = agent_of(TRAINS)
    agent.obey(run(1))
    report_when(agent, trains(1))

    agent.obey(save(1))
    agent.obey(kill(1))

    [worker] = report_when(agent, is_empty).workers
    assert (worker.exit_code, worker.killed_by_agent) == (-9, True)


def test_a_worker_that_is_frozen_is_killed(agent_of, run):
    agent = agent_of(TRAINS)
    agent.obey(run(1))
    os.kill(pid_of(report_when(agent, trains(1))), signal.SIGSTOP)

    agent.obey(kill(1))

    report_when(agent, is_empty)


def test_a_worker_that_hangs_with_pythons_lock_held_writes_down_where(agent_of, run):
    waits_for_itself = """
import ctypes
from orchestrator.worker.main import dump_stacks_on_sigusr1
dump_stacks_on_sigusr1()
def hang():
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    mutex = ctypes.create_string_buffer(64)
    lock(mutex), lock(mutex)
train()
hang()
"""
    agent = agent_of(HEARS + waits_for_itself)
    agent.obey(run(1))
    report_when(agent, trains(1))

    agent.obey(kill(1, wants_evidence=True))

    [worker] = report_when(agent, is_empty).workers
    assert (worker.exit_code, worker.killed_by_agent) == (-9, True)
    assert b"in hang" in agent.read_log(0, 0, 1 << 20)[0]


def test_a_run_that_grants_no_time_for_stacks_kills_what_hangs_at_once(agent_of, run):
    """No time passes here."""
    ignores = HEARS + "signal.signal(signal.SIGUSR1, signal.SIG_IGN); train(); time.sleep(120)"
    agent = agent_of(ignores, clock=lambda: 0.0, stack_dump_grace_s=0.0)
    agent.obey(run(1))
    report_when(agent, trains(1))

    agent.obey(kill(1, wants_evidence=True))

    assert report_when(agent, is_empty).workers[0].exit_code == -9


# --- reports --------------------------------------------------------------------------------------------------------------


def test_news_is_a_milestone_and_nothing_else(agent_of, run, tmp_path: Path):
    gates = f"wait = lambda name: [time.sleep(0.02) for _ in iter(lambda: not Path({str(tmp_path)!r}, name).exists(), False)]\n"
    agent = agent_of(
        HEARS + gates + "train(); wait('step'); [say(Beat(phase=Phase.TRAINING, step=n)) for n in range(2, 51)];"
        "wait('commit'); say(Committed(step=50)); time.sleep(120)"
    )
    agent.obey(run(1))
    report_when(agent, trains(1))
    version = agent.report()[0]

    (tmp_path / "step").touch()
    wait_for(lambda: agent.report()[1].workers[0].step == 50, "the last step")
    agent.obey(run(1))
    assert agent.report()[0] == version

    (tmp_path / "commit").touch()
    agent.wait_for_news(version, 60.0)
    after, report = agent.report()
    assert (after, report.workers[0].committed_step) == (version + 1, 50)


def test_a_pause_of_the_agent_is_charged_to_no_worker(agent_of, run):
    """The clock jumps, as it does for an agent that was stopped together with its workers."""
    jumps_s = [0.0]
    agent = agent_of(TRAINS, clock=lambda: time.monotonic() + sum(jumps_s))
    agent.obey(run(1))
    [before] = report_when(agent, trains(1)).workers
    started_s = time.monotonic()

    jumps_s.append(1000.0)

    [after] = agent.report()[1].workers
    passed_s = time.monotonic() - started_s
    for name in ("silent_s", "last_progress_s", "age_s"):
        assert getattr(after, name) <= getattr(before, name) + passed_s + 1.0, name


def test_the_offered_port_is_kept_from_others_until_the_workers_need_it(agent_of, run):
    agent = agent_of(
        HEARS + "import socket; socket.create_server((assign.rendezvous.address, assign.rendezvous.port)); train(); time.sleep(120)"
    )
    offer = report_when(agent, lambda report: report.offer is not None).offer
    assert offer is not None
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((offer.address, offer.port))

    agent.obey(run(1, rendezvous=offer))
    report = report_when(agent, trains(1))

    assert report.rendezvous == offer
    assert report.offer not in (None, offer)


def test_an_offer_that_the_attempt_does_not_use_stands(agent_of, run):
    agent = agent_of(TRAINS)
    offer = report_when(agent, lambda report: report.offer is not None).offer

    agent.obey(run(1))

    assert report_when(agent, trains(1)).offer == offer


# --- logs -----------------------------------------------------------------------------------------------------------------


def test_the_log_of_an_ended_worker_is_uploaded(agent_of, run, tmp_path: Path):
    agent = agent_of(HEARS + "print('bye', flush=True)")

    agent.obey(run(3))

    uploaded = tmp_path / "store/runs" / tmp_path.name / log_key(3, 0)
    wait_for(uploaded.exists, "the log")
    assert uploaded.read_bytes() == b"bye\n"


def test_logs_of_attempts_long_ago_leave_the_node(agent_of, run, home: Path, tmp_path: Path):
    logs = [home / "runs" / tmp_path.name / log_key(attempt, 0) for attempt in range(1, 12)]
    for log in logs[:-1]:
        log.parent.mkdir(parents=True)
        log.touch()

    agent_of(HEARS + "print('here', flush=True); time.sleep(120)").obey(run(11))

    wait_for(logs[-1].exists, "the newest log")
    assert [log.exists() for log in logs] == [False] + 10 * [True]


def test_a_log_is_the_newest_attempts(agent_of, run):
    agent = agent_of(HEARS + "print(assign.attempt, flush=True); train(); time.sleep(120)")
    agent.obey(run(1))
    log_when(agent, 0, lambda text: text == b"1\n")

    agent.obey(run(2))
    log_when(agent, 0, lambda text: text == b"2\n")
    agent.obey(kill(3))

    assert agent.read_log(0, 0, 100) == (b"", 0)


# --- its end --------------------------------------------------------------------------------------------------------------


def test_a_closed_agent_leaves_nothing_behind_and_starts_nothing(agent_of, run, tmp_path: Path):
    agent = agent_of(TRAINS)
    agent.obey(run(1))
    report_when(agent, trains(1))

    agent.close()
    with pytest.raises(RuntimeError, match="was told to leave"):
        agent.obey(run(2))

    assert pids_with_environment("BRAID_RUN", tmp_path.name) == []
    assert not agent.thread.is_alive()


class SlowUploader(LogUploader):
    """Never done; remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__(StorageConfig(root="nowhere"), "slow")
        self.waited_s: list[float] = []

    def wait(self, timeout_s: float) -> bool:
        self.waited_s.append(timeout_s)
        return False


def test_a_closed_agent_waits_for_its_logs_as_long_as_the_run_says(tmp_path: Path):
    uploader, identity = SlowUploader(), AgentIdentity(run=RunIdentity(name=tmp_path.name), node="a", storage=StorageConfig(root="nowhere"))
    recovery = RecoveryConfig(log_upload_timeout_s=45.0)
    agent = Agent(identity, Holding(address="127.0.0.1"), recovery, uploader=uploader, clock=time.monotonic)
    agent.thread.start()

    agent.close()

    assert uploader.waited_s == [45.0]
    assert not agent.thread.is_alive()


def test_an_agent_that_can_not_go_on_says_so(agent_of, run, monkeypatch: pytest.MonkeyPatch):
    agent = agent_of(TRAINS)
    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    monkeypatch.setattr(agent._group, "end", lambda **_: 1 // 0)
    wait_for(lambda: agent._wake() or not agent.thread.is_alive(), "the end of its thread")

    with pytest.raises(RuntimeError, match="has ended by an error"):
        agent.report()
