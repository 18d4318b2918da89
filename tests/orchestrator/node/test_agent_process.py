"""An agent that is a process of its own: stopped, and killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.node.processes import look_at, pids_with_environment
from tests.orchestrator.node.scripted import HEARS
from tests.orchestrator.node.waiting import report_when, trains, wait_for

AGENT = """
import json, sys, time
from data_pipeline.config import StorageConfig
from orchestrator.config import RecoveryConfig
from orchestrator.identity import RunIdentity
from orchestrator.messages import Mode, Rendezvous
from orchestrator.node.agent import AgentIdentity, Holding, build_agent
from orchestrator.node.orders import AgentOrder, SpawnOrder
run, root, code, num_standbys = sys.argv[1:]
storage = StorageConfig(root=root)
identity = AgentIdentity(run=RunIdentity(name=run), node="a", storage=storage, worker_command=(sys.executable, "-c", code),
                         num_standbys=int(num_standbys))
agent = build_agent(identity, Holding(address="127.0.0.1"), RecoveryConfig(kill_timeout_s=3.0))
spawn = SpawnOrder(run=run, attempt=1, config_version=1, storage=storage, world_size=1, first_rank=0, num_workers=1,
                   rendezvous=Rendezvous(address="127.0.0.1", port=20001))
agent.obey(AgentOrder(attempt=1, mode=Mode.RUN, spawn=spawn))
for _ in sys.stdin:
    [*workers] = agent.report()[1].workers
    print(json.dumps([[worker.pid, worker.phase.value, worker.age_s] for worker in workers]), flush=True)
"""


DIES_WITH_PARENT = "import ctypes; ctypes.CDLL(None).prctl(1, 9)"


class AgentProcess:
    """An agent that is a process of its own, with one worker."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def worker(self) -> tuple[int, str, float]:
        """(process id, phase, age in seconds), once there is one that trains."""

        def ask() -> tuple[int, str, float] | None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write("?\n")
            self.process.stdin.flush()
            workers = json.loads(self.process.stdout.readline())
            return tuple(workers[0]) if workers and workers[0][1] == "training" else None

        return wait_for(ask, "the worker")


@contextmanager
def agent_process(tmp_path: Path, code: str, *, num_standbys: int = 0) -> Iterator[AgentProcess]:
    arguments = (tmp_path.name, str(tmp_path / "store"), code, str(num_standbys))
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield AgentProcess(process)
        finally:
            process.kill()


def test_an_agent_that_was_stopped_does_not_count_the_time(tmp_path: Path):
    with agent_process(tmp_path, HEARS + "train(); orders.read()") as agent:
        *_, before_s = agent.worker()
        started_s = time.monotonic()

        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        agent.process.send_signal(signal.SIGCONT)

        *_, after_s = agent.worker()
        assert after_s - before_s < time.monotonic() - started_s - 1.5


def test_workers_die_with_their_agent(tmp_path: Path):
    with agent_process(tmp_path, HEARS + f"{DIES_WITH_PARENT}; train(); time.sleep(120)") as agent:
        worker = agent.worker()[0]
        time.sleep(0.2)
        assert look_at(worker) is not None, "it must outlive the moment of its start"

        agent.process.kill()

    wait_for(lambda: look_at(worker) is None, "the worker's end", timeout_s=10)


def test_who_stands_by_dies_with_the_agent(tmp_path: Path):
    trains_file, waits = tmp_path / "trains", tmp_path / "waits"
    stands_by = (
        f"{DIES_WITH_PARENT}\nif Path({str(trains_file)!r}).exists(): Path({str(waits)!r}).write_text(str(os.getpid())); time.sleep(120)\n"
    )
    code = HEARS.replace("orders =", f"{stands_by}orders =") + f"Path({str(trains_file)!r}).touch(); train(); time.sleep(120)"
    with agent_process(tmp_path, code, num_standbys=1) as agent:
        worker = agent.worker()[0]
        waiting = int(wait_for(lambda: waits.exists() and waits.read_text(), "one that stands by"))
        assert worker != waiting

        agent.process.kill()

    wait_for(lambda: look_at(worker) is None and look_at(waiting) is None, "their end", timeout_s=10)


def test_a_worker_sees_the_end_of_its_pipe_when_its_agent_dies(tmp_path: Path):
    with agent_process(tmp_path, HEARS + "train(); orders.read()") as agent:
        worker = agent.worker()[0]

        agent.process.kill()

    wait_for(lambda: look_at(worker) is None, "the worker's end", timeout_s=10)


def test_what_outlived_a_dead_agent_is_ended_by_the_next_before_it_starts_anything(tmp_path: Path, agent_of, run):
    with agent_process(tmp_path, HEARS + "subprocess.Popen(['sleep', '120'], start_new_session=True); train(); orders.read()") as first:
        first.worker()
        first.process.kill()
    [orphan] = wait_for(lambda: (left := pids_with_environment("BRAID_RUN", tmp_path.name)) and len(left) == 1 and left, "the child alone")

    looks = f"from orchestrator.node.processes import look_at; assert look_at({orphan}) is None;"
    agent = agent_of(HEARS + looks + "train(); time.sleep(120)")
    agent.obey(run(2))

    report_when(agent, trains(2))
    assert look_at(orphan) is None
