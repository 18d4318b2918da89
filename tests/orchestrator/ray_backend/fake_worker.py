"""A worker without torch: counts steps, commits every tenth into a file beside the run, resumes from there. Started like a real one.

It is finished when the file `finish` appears, so that tests depend on no pace."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.store.local import LocalStore
from model.train.metrics import StepMetrics
from orchestrator import codec
from orchestrator.messages import Beat, Committed, Ended, Failed, Message, Outcome, Phase, Resumed, encode
from orchestrator.records.configs import read_config

STEP_S = 0.05
PR_SET_PDEATHSIG = 1


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
    directory = run_directory()
    config = read_config(LocalStore(directory), int(os.environ["BRAID_CONFIG_VERSION"]))
    is_first = os.environ["RANK"] == "0"
    committed = directory / "committed"
    step = int(committed.read_text()) if committed.exists() else 0
    print(f"rank {os.environ['RANK']} of attempt {os.environ['BRAID_ATTEMPT']} starts after step {step}", flush=True)
    if is_first:
        say(Resumed(step=step))
    while step < config.train.num_steps and not stops and not (directory / "finish").exists():
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
    say(Ended(outcome=Outcome.STOPPED if stops else Outcome.FINISHED, step=step))


def run_directory() -> Path:
    storage = codec.from_json(StorageConfig, os.environ["BRAID_STORAGE"].encode())
    return Path(storage.root) / "runs" / os.environ["BRAID_RUN"]


def commit(path: Path, step: int) -> None:
    path.with_suffix(".new").write_text(str(step))
    os.replace(path.with_suffix(".new"), path)
    say(Committed(step=step))


def say(message: Message) -> None:
    os.write(int(os.environ["BRAID_REPORT_FD"]), encode(message))


if __name__ == "__main__":
    main()
