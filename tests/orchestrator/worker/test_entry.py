"""How a worker process begins and ends: what it is told, and what it says last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.protocol import StoreUnavailable
from orchestrator import codec
from orchestrator.errors import NoCheckpoint
from orchestrator.messages import Ended, Failed, Message, Outcome, decode
from orchestrator.worker.environment import read_environment
from orchestrator.worker.main import EXIT_FAILED, EXIT_USAGE, run_reported
from orchestrator.worker.reporter import EXIT_ORPHANED, Reporter

VARIABLES = {
    "BRAID_RUN": "first",
    "BRAID_STORAGE": codec.to_json(StorageConfig(root="/data")).decode(),
    "BRAID_CONFIG_VERSION": "2",
    "BRAID_ATTEMPT": "3",
    "BRAID_HOME": "/home/me/.braid",
}


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

    assert (environment.run, environment.config_version, environment.attempt) == ("first", 2, 3)
    assert environment.storage == StorageConfig(root="/data")
    assert environment.report_fd is None
    assert environment.cache_dir == Path("/home/me/.braid/cache")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BRAID_RUN", None, "BRAID_RUN: not set; workers are started by an agent"),
        ("BRAID_ATTEMPT", "two", "BRAID_ATTEMPT='two': not a whole number"),
        ("BRAID_STORAGE", "{}", "BRAID_STORAGE: "),
    ],
)
def test_a_wrong_environment_is_one_line_that_names_the_variable(name: str, value: str | None, line: str):
    variables = {key: text for key, text in VARIABLES.items() if key != name} | ({name: value} if value is not None else {})

    with pytest.raises(ValueError, match="^" + line):
        read_environment(variables)


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


def run_worker(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.worker.main"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_worker_without_an_agent_says_how_to_start_one():
    done = run_worker({})

    assert done.returncode == EXIT_USAGE
    assert done.stdout.count("\n") == 1
    assert "BRAID_RUN: not set" in done.stdout


def test_a_worker_whose_agent_died_before_it_was_ready_does_not_live():
    assert run_worker(VARIABLES | {"BRAID_AGENT_PID": "1"}).returncode == EXIT_ORPHANED


def test_the_first_sign_of_life_costs_no_torch():
    code = "import sys, orchestrator.worker.main; sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'numpy')))"

    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == 0
