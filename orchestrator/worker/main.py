"""A worker process: `python -m orchestrator.worker.main`, started by a node agent, one for each rank.

It learns who it is from its first order. Torch, which takes seconds, is imported after the first sign of life and before that order: a
process that stands by for the next attempt has done it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import BinaryIO, NoReturn

from data_pipeline.store.open import open_store
from orchestrator.errors import is_expected
from orchestrator.messages import Ended, Failed, Phase, Ready
from orchestrator.records.configs import read_config
from orchestrator.records.keys import certain_of_run, store_of_run
from orchestrator.worker.environment import WorkerEnvironment, read_environment, torch_variables
from orchestrator.worker.orders import has_order, start_listening, wait_for_assign
from orchestrator.worker.reporter import EXIT_ORPHANED, Reporter, build_reporter

EXIT_FAILED = 1
EXIT_USAGE = 2
MAX_TEXT_LENGTH = 800
_PR_SET_PDEATHSIG = 1
log = logging.getLogger("worker")


def main() -> NoReturn:
    _die_with_parent()
    dump_stacks_on_sigusr1()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until there is somebody to tell of it
    start_logging()
    try:
        environment = read_environment(os.environ)
    except ValueError as error:
        log.error("%s", error)
        end_process(EXIT_USAGE)
    if os.getppid() != environment.agent_pid:
        end_process(EXIT_ORPHANED)
    for fd in environment.memory_fds:
        os.set_inheritable(fd, False)  # what a worker starts is not to keep them
    reporter = build_reporter(environment.report_fd)
    stop = stop_on_sigterm(reporter)
    orders = os.fdopen(environment.order_fd, "rb")
    end_process(run_reported(lambda: _train(orders, reporter, stop, environment), reporter))


def run_reported(train: Callable[[], Ended], reporter: Reporter) -> int:
    """Trains and returns the exit status; how the training ended is the last thing that the reporter says."""
    try:
        ended = train()
    except Exception as error:
        if is_expected(error):
            log.error("%s: %s", type(error).__name__, error)
        else:
            log.exception("unexpected %s", type(error).__name__)
        return _report_failure(error, reporter)
    log.info("%s at step %d", ended.outcome.value, ended.step)
    reporter.enter(Phase.DONE)
    reporter.send(ended)
    reporter.close()
    return 0


def start_logging() -> None:
    """Logs to stdout, which is the worker's log."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s", force=True)


def dump_stacks_on_sigusr1() -> None:
    """From now on SIGUSR1 writes the Python stack of every thread to stderr, even of a process that never gets back to Python.

    So does a signal that ends the process, such as SIGSEGV or a watchdog's SIGABRT.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def stop_on_sigterm(reporter: Reporter) -> threading.Event:
    """Set at SIGTERM, which the reporter tells. SIGINT does what it does everywhere, although an agent's children start with it blocked."""
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        reporter.told_to_leave()
        stop.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    return stop


def end_process(status: int) -> NoReturn:
    """Ends the process at once: the threads of gloo may abort an ordinary exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _train(orders: BinaryIO, reporter: Reporter, stop: threading.Event, environment: WorkerEnvironment) -> Ended:
    from orchestrator.worker.session import train_once, warm_up  # imports torch: before its first order, so that who stands by has done it

    for _ in warm_up():
        if has_order(orders):
            break
    reporter.send(Ready())
    assign = wait_for_assign(orders)
    log.info("this is rank %d of %s, attempt %d", assign.rank, assign.run, assign.attempt)
    start_listening(orders, stop)
    os.environ.update(torch_variables(assign))
    store = open_store(assign.storage, holds=certain_of_run(assign.run))
    config = read_config(store_of_run(store, assign.run), assign.config_version)
    return train_once(
        config,
        store,
        attempt_number=assign.attempt,
        reporter=reporter,
        stop=stop,
        cache_dir=environment.cache_dir,
        memory=environment.memory_fds,
    )


def _report_failure(error: Exception, reporter: Reporter) -> int:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reporter.send(Failed(error_type=type(error).__name__, text=_shortened(lines[0])))
    reporter.close()
    return EXIT_FAILED


def _shortened(line: str) -> str:
    """Both ends of what is too long: it begins with what it is about, and ends with the remedy."""
    half = MAX_TEXT_LENGTH // 2
    return line if len(line) <= MAX_TEXT_LENGTH else f"{line[: half - 2]} … {line[-half + 1 :]}"


def _die_with_parent() -> None:
    """SIGKILL when the parent ends. The first thing to do; whoever died before it is noticed by comparing parents afterwards."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
