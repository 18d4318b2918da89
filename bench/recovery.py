"""Seconds from a killed worker to the next step, ours and torchrun's: `python -m bench.recovery`.

Ours is a run on a local cluster, submitted as any: one worker is killed with SIGKILL, then (on the CPU) everything of one node, while
another one is free. torchrun restarts the same model with checkpoints by DCP (`bench.recovery_peer`), one worker of it killed alike. On
GPUs (`--gpus`) both train eight layers of Olmo Hybrid 7B, without them the tiny preset on two CPU workers. The next step is the first that
was not trained before, so what is lost is counted.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.recovery_ours import cut_power, kill_worker, measure_ours
from bench.recovery_times import Recovery, torchruns_recovery
from launch.config.load import load_config
from launch.demo.home import temporary_home
from launch.show.console import console as plain_console
from orchestrator.config import RunConfig
from orchestrator.node.processes import send

RECIPE = "tiny"
ON_GPUS = ("model={preset: olmo_hybrid_7b, num_layers: 8}", "data.seq_len=8192", "train.micro_rows=1", "resources.device=cuda")
PER_GPU = ("parallel.dp_shard", "train.batch_rows", "resources.workers_per_node")
MANY_STEPS = 10**6
MAX_RESTARTS = 3
STEADY_STEPS = 10
"""That torchrun's workers finish past a checkpoint before one is killed."""
LAST_WORDS = 2000
TRIES = 3
TORCHRUN_PATIENCE_S = 180.0
T = TypeVar("T")


def overrides_of(num_gpus: int, home: Path, wanted: Sequence[str]) -> list[str]:
    """Of the tiny recipe: a run that lasts until it is ended, on GPUs with a rank on each."""
    on_gpus = (*ON_GPUS, *(f"{key}={num_gpus}" for key in PER_GPU)) if num_gpus else ()
    return ["name=recovery", f"storage.root={home / 'store'}", f"train.num_steps={MANY_STEPS}", *on_gpus, *wanted]


def measure_torchrun(config: RunConfig, overrides: Sequence[str], directory: Path, *, patience_s: float) -> Recovery:
    """A worker of another rank than the first is killed, if there is one."""
    num_ranks = config.parallel.world_size
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks), "--max-restarts", str(MAX_RESTARTS)]
    script = ["-m", "bench.recovery_peer", str(directory), RECIPE, *overrides]
    log = directory / "torchrun.log"
    with log.open("wb") as out:
        run = subprocess.Popen([sys.executable, "-m", *command, *script], stdout=out, stderr=out)

    def wait_for(look: Callable[[], T | None], what: str) -> T:
        give_up_at_s = time.monotonic() + patience_s
        while not (found := look()):
            if run.poll() is not None or time.monotonic() > give_up_at_s:
                raise SystemExit(f"torchrun: waited in vain for {what}; its last words:\n{log.read_text(errors='replace')[-LAST_WORDS:]}")
            time.sleep(0.05)
        return found

    try:
        wait_for(lambda: len(said(directory, 0)) > config.checkpoint.every_steps + STEADY_STEPS, "steps after a checkpoint")
        victim, killed_s = int(said(directory, num_ranks - 1)[0]["pid"]), time.time()
        send(victim, signal.SIGKILL)
        return wait_for(lambda: torchruns_recovery(killed_s, said(directory, 0)), "the next step")
    finally:
        run.terminate()
        run.wait()


def try_torchrun(config: RunConfig, overrides: Sequence[str], home: Path, *, tell: Callable[[str], None]) -> Recovery | None:
    """Its restarted workers sometimes wait for each other for ever, which is then told and tried again. None where all tries end so."""
    for number in range(TRIES):
        directory = home / f"torchrun-{number}"
        directory.mkdir()
        try:
            return measure_torchrun(config, overrides, directory, patience_s=TORCHRUN_PATIENCE_S)
        except SystemExit as error:
            tell(str(error))
    return None


def said(directory: Path, rank: int) -> list[dict[str, float]]:
    """What a rank of torchrun's has written so far, in whole lines: who it is, then each step."""
    path = directory / f"rank-{rank}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def answer(ours: Sequence[Recovery], torchruns: Recovery | None) -> dict[str, Any]:
    """Of our recoveries the first is from a killed worker, the second, if any, from a lost node."""
    worker, *nodes = ours
    found: dict[str, Any] = {
        "ours_s": worker.next_step_s,
        "torchrun_s": torchruns.next_step_s if torchruns else None,
        "ratio": round(worker.next_step_s / torchruns.next_step_s, 3) if torchruns else None,
        "noticed_s": worker.hops["noticed"],
        "steps_lost": worker.steps_lost,
        "source": worker.source,
        "hops": worker.hops,
    }
    if nodes:
        found |= {
            "node_s": nodes[0].next_step_s,
            "node_steps_lost": nodes[0].steps_lost,
            "node_source": nodes[0].source,
            "node_hops": nodes[0].hops,
        }
    return found | ({"torchrun_steps_lost": torchruns.steps_lost, "torchrun_hops": torchruns.hops} if torchruns else {})


def line(name: str, found: Recovery) -> str:
    hops = "  ".join(f"{hop} {seconds:.2f}" for hop, seconds in found.hops.items())
    return f"  {name:<16}{found.next_step_s:8.2f} s  {found.steps_lost:4} steps lost, from {found.source:<8} {hops}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("overrides", nargs="*", help="of the tiny recipe, such as model.num_layers=8")
    parser.add_argument("--gpus", type=int, default=torch.cuda.device_count(), help="0 trains on the CPU; all that are there")
    parser.add_argument("--ours-only", action="store_true", help="leave torchrun out")
    parser.add_argument(
        "--patience", type=float, default=600.0, metavar="SECONDS", help="for each of the states of our run that are waited for"
    )
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args(arguments)
    console = plain_console(stderr=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # so that nothing is left behind
    with temporary_home(keep=False, console=console) as home:
        overrides = overrides_of(options.gpus, home, options.overrides)
        config = load_config(RECIPE, overrides)
        hurts = (kill_worker,) if options.gpus else (kill_worker, cut_power)
        ours = measure_ours(config, home, *hurts, patience_s=options.patience, tell=console.print)
        torchruns = None if options.ours_only else try_torchrun(config, overrides, home, tell=console.print)
    for name, found in zip(("killed worker", "lost node"), ours, strict=False):
        print(line(name, found))
    if torchruns:
        print(line("torchrun", torchruns))
    if options.json:
        print(json.dumps(answer(ours, torchruns)))


if __name__ == "__main__":
    main()
