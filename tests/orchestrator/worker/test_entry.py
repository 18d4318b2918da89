"""How a worker process begins and ends: what it is told, and what it says last."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import StoreUnavailable
from orchestrator.errors import NoCheckpoint
from orchestrator.messages import Assign, Beat, Ended, Failed, Message, Outcome, Ready, Rendezvous, Stop, decode, encode
from orchestrator.worker.environment import read_environment, torch_variables
from orchestrator.worker.main import EXIT_FAILED, EXIT_USAGE, MAX_TEXT_LENGTH, run_reported
from orchestrator.worker.orders import has_order
from orchestrator.worker.reporter import EXIT_ORPHANED, Reporter

VARIABLES = {"BRAID_ORDER_FD": "5", "BRAID_REPORT_FD": "7", "BRAID_AGENT_PID": "77", "BRAID_HOME": "/home/me/.braid"}


def assign(tmp_path: Path) -> Assign:
    """Of a run that does not exist."""
    return Assign(
        run="first",
        storage=StorageConfig(root=str(tmp_path)),
        config_version=2,
        attempt=3,
        rank=11,
        local_rank=3,
        world_size=16,
        local_world_size=8,
        rendezvous=Rendezvous(address="10.0.0.1", port=20001),
    )


def outcome_of(ended: Ended | Exception) -> tuple[int, Message]:
    """(exit status, last message) of a worker whose training ended so."""

    def train() -> Ended:
        if isinstance(ended, Exception):
            raise ended
        return ended

    reading, writing = os.pipe()
    reporter = Reporter(writing)
    reporter.start()
    status = run_reported(train, reporter)
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        return status, [decode(line) for line in lines][-1]


def test_an_environment_is_read():
    environment = read_environment(VARIABLES)

    assert (environment.order_fd, environment.report_fd, environment.agent_pid) == (5, 7, 77)
    assert environment.cache_dir == Path("/home/me/.braid/cache")
    assert read_environment(VARIABLES | {"BRAID_CACHE": "/scratch/cache"}).cache_dir == Path("/scratch/cache")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BRAID_ORDER_FD", None, "BRAID_ORDER_FD: not set; workers are started by an agent"),
        ("BRAID_AGENT_PID", "two", "BRAID_AGENT_PID='two': not a whole number"),
    ],
)
def test_a_wrong_environment_is_one_line_that_names_the_variable(name: str, value: str | None, line: str):
    variables = {key: text for key, text in VARIABLES.items() if key != name} | ({name: value} if value is not None else {})

    with pytest.raises(ValueError, match="^" + line):
        read_environment(variables)


def test_torch_learns_of_a_workers_place_as_it_does_under_torchrun(tmp_path: Path):
    assert torch_variables(assign(tmp_path)) == {
        "RANK": "11",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "16",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "20001",
    }


def test_the_last_word_of_a_finished_worker():
    ended = Ended(outcome=Outcome.FINISHED, step=8)

    assert outcome_of(ended) == (0, ended)


def test_an_expected_failure_is_one_line_without_a_traceback(caplog: pytest.LogCaptureFixture):
    status, failed = outcome_of(NoCheckpoint("no committed checkpoint of this run can be used"))

    assert (status, failed) == (EXIT_FAILED, Failed(error_type="NoCheckpoint", text="no committed checkpoint of this run can be used"))
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("NoCheckpoint: no committed checkpoint of this run can be used", None)
    ]


def test_the_kind_of_a_store_error_survives():
    assert outcome_of(StoreUnavailable("no answer"))[1] == Failed(error_type="StoreUnavailable", text="no answer")


def test_an_unexpected_failure_has_its_traceback_in_the_log_and_one_line_for_the_agent(caplog: pytest.LogCaptureFixture):
    status, failed = outcome_of(RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA\n" + "x" * 10_000))

    assert (status, failed) == (EXIT_FAILED, Failed(error_type="RuntimeError", text="CUDA error: out of memory"))
    assert caplog.records[0].exc_info is not None


def test_a_failure_without_words_has_its_name():
    assert outcome_of(KeyError())[1] == Failed(error_type="KeyError", text="KeyError")


class Worker:
    """A real worker process, and its agent's ends of the pipes."""

    def __init__(self, process: subprocess.Popen[str], order_fd: int, report_fd: int) -> None:
        self.process = process
        self._order_fd: int | None = order_fd
        self._report_fd = report_fd
        self._unread: list[Message] = []

    def tell(self, line: bytes) -> None:
        assert self._order_fd is not None
        os.write(self._order_fd, line)

    def hang_up(self) -> None:
        """What happens to the pipe when an agent dies."""
        if self._order_fd is not None:
            os.close(self._order_fd)
        self._order_fd = None

    def hear(self, kind: type[Message]) -> Message:
        """The next message of a kind; blocks for it."""
        while True:
            while self._unread:
                message = self._unread.pop(0)
                if isinstance(message, kind):
                    return message
            data = os.read(self._report_fd, 65536)
            assert data, f"it ended without: {self.output()}"
            self._unread = [decode(line) for line in data.splitlines()]

    def output(self) -> str:
        """All that it printed, once it has ended."""
        return self.process.communicate(timeout=50)[0]


@contextmanager
def started(variables: dict[str, str] | None = None) -> Iterator[Worker]:
    order_read, order_write = os.pipe()
    report_read, report_write = os.pipe()
    pipes = {"BRAID_ORDER_FD": str(order_read), "BRAID_REPORT_FD": str(report_write), "BRAID_AGENT_PID": str(os.getpid())}
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator.worker.main"],
        env=os.environ | (pipes if variables is None else variables),
        pass_fds=(order_read, report_write),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.close(order_read)
        os.close(report_write)
        worker = Worker(process, order_write, report_read)
        try:
            yield worker
        finally:
            process.kill()
            worker.hang_up()
            os.close(report_read)


def test_a_worker_without_an_agent_says_how_to_start_one():
    with started({}) as worker:
        text = worker.output()

    assert worker.process.returncode == EXIT_USAGE
    assert text.count("\n") == 1
    assert "BRAID_ORDER_FD: not set" in text


def test_a_worker_whose_agent_died_before_it_was_ready_does_not_live():
    with started(VARIABLES | {"BRAID_AGENT_PID": "1"}) as worker:
        assert worker.process.wait(timeout=50) == EXIT_ORPHANED


def test_a_worker_beats_before_it_knows_who_it_is_and_learns_it_from_its_first_order(tmp_path: Path):
    with started() as worker:
        assert worker.hear(Beat) == Beat()

        worker.tell(encode(assign(tmp_path)))

        failed = worker.hear(Failed)
        assert isinstance(failed, Failed)
        assert failed.error_type == "StoreUnavailable", "a run's worker takes a store without its run for one that is not mounted"
        assert "runs/first/config" in failed.text
        assert worker.process.wait(timeout=50) == EXIT_FAILED


def test_who_waits_for_its_order_says_so_once_all_is_imported_and_then_does_as_any_worker(tmp_path: Path):
    with started() as worker:
        worker.hear(Ready)
        assert "libtorch_python" in Path(f"/proc/{worker.process.pid}/maps").read_text()

        worker.tell(encode(assign(tmp_path)))

        failed = worker.hear(Failed)
        assert isinstance(failed, Failed)
        assert failed.error_type == "StoreUnavailable"
        assert "this is rank 11 of first, attempt 3" in worker.output()


def test_who_has_an_order_does_not_warm_up_first():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as orders:
        assert not has_order(orders)
        os.write(writing, encode(Stop()))
        assert has_order(orders)
        os.close(writing)


@pytest.mark.parametrize("line", [b"what?\n", encode(Stop())])
def test_a_first_order_that_is_none_is_a_failure_that_says_so(line: bytes):
    with started() as worker:
        worker.tell(line)

        failed = worker.hear(Failed)
        assert isinstance(failed, Failed)
        assert failed.error_type == "DecodeError"
        assert "order to a worker" in failed.text


def test_a_worker_whose_agent_dies_while_it_waits_ends_at_once():
    with started() as worker:
        worker.hear(Beat)

        worker.hang_up()

        assert worker.process.wait(timeout=50) == EXIT_ORPHANED


def test_a_signal_to_leave_is_told_even_while_a_worker_waits():
    with started() as worker:
        worker.hear(Beat)

        worker.process.send_signal(signal.SIGTERM)

        while worker.hear(Beat) != Beat(told_to_leave=True):
            pass


def test_sigusr1_writes_down_where_a_worker_stands_and_it_goes_on():
    with started() as worker:
        worker.hear(Beat)

        worker.process.send_signal(signal.SIGUSR1)
        worker.hear(Beat)
        worker.hang_up()

        text = worker.output()
        assert "orchestrator/worker/main.py" in text
        assert worker.process.returncode == EXIT_ORPHANED


def test_the_first_sign_of_life_costs_no_torch():
    code = "import sys, orchestrator.worker.main; sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'numpy')))"

    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == 0


def test_of_words_that_are_too_long_both_ends_are_told_since_the_remedy_comes_last():
    status, said = outcome_of(NoCheckpoint(f"run first: {'x' * 5000}; restore its files"))
    assert status == EXIT_FAILED
    assert isinstance(said, Failed)
    assert said.text.startswith("run first: xxx")
    assert said.text.endswith("xxx; restore its files")
    assert len(said.text) == MAX_TEXT_LENGTH
