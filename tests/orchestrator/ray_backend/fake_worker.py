"""A worker without torch: counts steps, commits every tenth into a file beside the run, resumes from there. Started like a real one.

It is finished when the file `finish` appears, so that tests depend on no pace."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from data_pipeline.store.local import LocalStore
from model.train.metrics import StepMetrics
from orchestrator.messages import Assign, Beat, Committed, Ended, Failed, Message, Outcome, Phase, Resumed, Stop, decode_order, encode
from orchestrator.records.configs import read_config

STEP_S = 0.05
PR_SET_PDEATHSIG = 1
stops = threading.Event()


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    orders = os.fdopen(int(os.environ["BRAID_ORDER_FD"]), "rb")
    assign = decode_order(orders.readline())
    assert isinstance(assign, Assign), "the first order says what to do"
    threading.Thread(target=obey, args=(orders,), daemon=True).start()
    directory = Path(assign.storage.root) / "runs" / assign.run
    config = read_config(LocalStore(directory), assign.config_version)
    is_first = assign.rank == 0
    committed = directory / "committed"
    step = int(committed.read_text()) if committed.exists() else 0
    print(f"rank {assign.rank} of attempt {assign.attempt} starts after step {step}", flush=True)
    if is_first:
        say(Resumed(step=step))
    while step < config.train.num_steps and not stops.is_set() and not (directory / "finish").exists():
        time.sleep(STEP_S)
        step += 1
        say(Beat(phase=Phase.TRAINING, step=step, metrics=StepMetrics(loss=1.0 / step, grad_norm=1.0, tokens=8), tokens_per_s=10.0))
        if is_first and (directory / f"fail-at-{step}").exists():
            say(Failed(error_type=(directory / f"fail-at-{step}").read_text(), text="asked to fail"))
            sys.exit(1)
        if is_first and step % 10 == 0:
            commit(committed, step)
    if is_first:
        commit(committed, step)
    say(Ended(outcome=Outcome.STOPPED if stops.is_set() else Outcome.FINISHED, step=step))


def leave(number: int, frame: object) -> None:
    say(Beat(phase=Phase.TRAINING, told_to_leave=True))
    stops.set()


def obey(orders: IO[bytes]) -> None:
    for line in orders:
        if isinstance(decode_order(line), Stop):
            stops.set()


def commit(path: Path, step: int) -> None:
    path.with_suffix(".new").write_text(str(step))
    os.replace(path.with_suffix(".new"), path)
    say(Committed(step=step))


def say(message: Message) -> None:
    os.write(int(os.environ["BRAID_REPORT_FD"]), encode(message))


if __name__ == "__main__":
    main()
